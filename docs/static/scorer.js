// How the search ranks what it finds: as Sphinx does, with the pages that explain before those that list.
var Scorer = {
  score: ([page, title, anchor, description, score]) =>
    /^(tutorials|how-to|concepts)\//.test(page) ? score + 12 : score,
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
