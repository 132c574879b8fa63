#!/bin/sh
# For maintainers: renew book/vendor, the browser libraries of the pages, from npm at pinned versions.
# Readers and builders of the book never need this (nor Node): the files are committed.
set -eu
cd "$(dirname "$0")/../vendor"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm install --prefix "$work" --silent --no-audit --no-fund --ignore-scripts \
  requirejs@2.3.8 @jupyter-widgets/html-manager@1.0.15 anywidget@0.11.0 mathjax@3.2.2
from="$work/node_modules"

rm -rf widgets mathjax
mkdir -p widgets mathjax/output/chtml/fonts mathjax/ui licences
cp "$from/requirejs/require.js" widgets/
cp "$from/@jupyter-widgets/html-manager/dist/"embed-amd.js widgets/
cp "$from/@jupyter-widgets/html-manager/dist/"*.woff2 widgets/  # the icons of its buttons
cp "$from/anywidget/dist/index.js" widgets/anywidget.js
cp "$from/mathjax/es5/tex-chtml-full.js" mathjax/
cp "$from/mathjax/es5/ui/lazy.js" mathjax/ui/
cp -r "$from/mathjax/es5/output/chtml/fonts/woff-v2" mathjax/output/chtml/fonts/

cp "$from/anywidget/LICENSE" licences/anywidget.txt
cp "$from/mathjax/LICENSE" licences/mathjax.txt
cp "$from/@jupyter-widgets/schema/LICENSE" licences/html-manager.txt
cp "$from/@jupyter-widgets/html-manager/dist/embed.js.LICENSE.txt" licences/html-manager-parts.txt
cp "$from/nouislider/LICENSE.md" licences/html-manager-nouislider.txt
cp "$from/@fortawesome/fontawesome-free/LICENSE.txt" licences/html-manager-fontawesome.txt
# licences/requirejs.txt was written by hand: that package holds no licence file.
chmod -R u=rwX,go=rX .
du -sh widgets mathjax
