// Tells require.js where the widget libraries lie, and lets ipywidgets typeset with MathJax 3.
(function () {
  const widgets = document.currentScript.src.replace(/[^/]*$/, "widgets/");
  requirejs.config({
    paths: {
      anywidget: widgets + "anywidget",
      // Both come inside embed-amd.js; from these names they derive where their icon fonts lie.
      "@jupyter-widgets": widgets.slice(0, -1),
      "@jupyter-widgets/html-manager/dist/libembed-amd": widgets + "embed-amd",
    },
  });

  // ipywidgets 8 typesets descriptions by MathJax 2's MathJax.Hub.Queue, which MathJax 3 lacks.
  const hub = {
    Queue: function (job) {
      if (window.MathJax.typesetPromise) window.MathJax.typesetPromise([job[2]]);
    },
  };
  let current = window.MathJax;
  Object.defineProperty(window, "MathJax", {
    configurable: true,
    get: function () {
      if (current && !current.Hub) current.Hub = hub;
      return current;
    },
    set: function (value) {
      current = value;
    },
  });
})();
