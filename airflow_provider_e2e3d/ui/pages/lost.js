// What is lost on the way of a page's own files comes when the page is loaded again; nothing else asks for it twice.
addEventListener(
  "error",
  ({ target }) => {
    if (target instanceof HTMLScriptElement || target instanceof HTMLLinkElement) setTimeout(() => location.reload(), 2000);
  },
  true,
);
