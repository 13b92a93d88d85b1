// Light or dark, as chosen last time, before anything is painted; without a choice the system's.
const chosen = localStorage.getItem("raycluster.theme");
if (chosen) document.documentElement.dataset.theme = chosen;
