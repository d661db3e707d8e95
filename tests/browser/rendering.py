"""The page's renderer, apart from the page: a text in, what would be seen out."""

from __future__ import annotations

# A module is asked for below the page's own version, so that it is the one that the page itself uses.
LOAD = """
  const base = document.querySelector('script[type=module]').src.replace('main.js', '');
  const { Writer } = await import(base + 'markdown/writer.js');
  const { ready } = await import(base + 'markdown/parse.js');
  await ready;
  const write = (root, text, size) => {
    const writer = new Writer(root);
    for (let at = 0; at < text.length; at += size) {
      writer.queue += text.slice(at, at + size);
      writer.step();
    }
    writer.ended = true;
    while (writer.step());
  };
"""

# Code without its frame, tables without theirs, links and blocks without what they all have.
HTML = f"""async ([texts, size, images]) => {{ {LOAD}
  return texts.map((text) => {{
    const root = document.createElement('div');
    write(root, text, size || text.length || 1);
    for (const box of root.querySelectorAll('.code')) {{
      const pre = document.createElement('pre');
      const code = document.createElement('code');
      code.textContent = box.text;
      if (box.language) code.lang = box.language.split(' ')[0];
      pre.append(code);
      box.replaceWith(pre);
    }}
    for (const box of root.querySelectorAll('.wide')) box.replaceWith(box.firstChild);
    for (const block of root.querySelectorAll('[dir=auto]')) block.removeAttribute('dir');
    for (const box of root.querySelectorAll('input')) {{
      box.toggleAttribute('checked', box.checked);
      box.removeAttribute('aria-label');
    }}
    // What stands for a picture, as the picture that the specification has; nothing is to fetch it.
    for (const link of images ? root.querySelectorAll('a.image') : []) {{
      const image = document.createElement('img');
      image.dataset.src = link.getAttribute('href');
      image.alt = link.textContent;
      if (link.title) image.title = link.title;
      link.replaceWith(image);
    }}
    for (const link of root.querySelectorAll('a')) {{
      link.removeAttribute('target');
      link.removeAttribute('rel');
    }}
    root.normalize();
    return root.innerHTML;
  }});
}}"""

# How long each step took at most, in milliseconds.
TIMES = f"""async ([text, size]) => {{ {LOAD}
  const root = document.createElement('div');
  const writer = new Writer(root);
  let longest = 0;
  const step = () => {{
    const start = performance.now();
    const more = writer.step();
    longest = Math.max(longest, performance.now() - start);
    return more;
  }};
  for (let at = 0; at < text.length; at += size) {{
    writer.queue += text.slice(at, at + size);
    step();
  }}
  writer.ended = true;
  while (step());
  return longest;
}}"""

# What is in a document that has no business there, once all of these texts were written into it.
FOREIGN = f"""async (texts) => {{ {LOAD}
  const tags = new Set(('A BLOCKQUOTE BR BUTTON CODE DEL DIV EM H1 H2 H3 H4 H5 H6 HR IMG INPUT LI OL '
    + 'P PRE SPAN STRONG svg path TABLE TBODY TD TH THEAD TR UL').split(' '));
  const names = new Set(('align alt aria-hidden aria-label checked class d dir disabled href rel role src '
    + 'start tabindex target title type viewBox').split(' '));
  const schemes = new Set(['http:', 'https:', 'mailto:', 'tel:', 'ftp:', 'xmpp:']);
  const root = document.querySelector('#scroller').firstChild;
  const found = [];
  for (const text of texts) {{
    const box = document.createElement('div');
    root.append(box);
    write(box, text, text.length || 1);
    for (const node of box.querySelectorAll('*')) {{
      if (node.closest('.formula')) continue;
      if (!tags.has(node.nodeName)) found.push([text, node.nodeName]);
      for (const {{ name }} of node.attributes) if (!names.has(name)) found.push([text, name]);
      if (node.nodeName === 'A' && !schemes.has(node.protocol)) found.push([text, node.href]);
      if (node.nodeName === 'A' && node.rel !== 'noopener noreferrer') found.push([text, 'rel']);
      const here = /^data:image\\/(?:png|gif|jpeg|webp);/i;
      if (node.nodeName === 'IMG' && !here.test(node.src)) found.push([text, node.src]);
    }}
    box.remove();
  }}
  return found;
}}"""
