// The theme's Font Awesome replaces every <i>; ipywidgets.Play needs its own to stay in the page.
window.FontAwesomeConfig = { autoReplaceSvg: "nest" };
