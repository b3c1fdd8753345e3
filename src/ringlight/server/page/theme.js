// Before the first paint: the theme that was chosen here, else the system's. A classic script, so that nothing flashes.
{
  const chosen = localStorage.getItem("ringlight.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
