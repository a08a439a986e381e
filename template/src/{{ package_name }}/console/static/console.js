// Lets pages follow new events, refresh, and count times on. Each page works without it.
"use strict";

(() => {
  const REFRESH = 5000; // ms between refreshes of a page in view
  const COUNT = 1000; // ms between updates of relative times
  const CHANGED = "sse:changed"; // an event was accepted
  const PACE = 1000; // ms that are added to the wait with each change of a busy page
  const MAX_WAIT = 3000; // ms between requests for changes while a page is busy
  const IN_USE = "paused while you use it"; // the state of a page that skips a refresh
  const RETRY = 3000; // ms until a connection that was refused is tried again
  const SILENCE = 11000; // ms without news: two heartbeats of the service, and what they may take

  // An EventSource that is closed while the page is hidden, so that hidden pages cost the service nothing.
  class PausableSource extends EventTarget {
    constructor(address) {
      super();
      this.address = address;
      this.names = new Set();
      this.closed = false;
      this.names.add("alive");
      this.watching = window.setInterval(() => this.watch(), COUNT);
      this.toggle = () => (document.hidden ? this.pause() : this.open());
      document.addEventListener("visibilitychange", this.toggle);
      this.toggle();
    }

    get readyState() {
      return this.source ? this.source.readyState : EventSource.CONNECTING;
    }

    addEventListener(name, listener) {
      super.addEventListener(name, listener);
      if (!this.names.has(name)) {
        this.names.add(name);
        if (this.source) this.relay(name);
      }
    }

    relay(name) {
      this.source.addEventListener(name, (event) => {
        this.heard(event.target);
        this.dispatchEvent(new MessageEvent(name, { data: event.data, lastEventId: event.lastEventId }));
      });
    }

    // A connection that is open brings nothing if the service or its database hangs.
    heard(source) {
      if (source !== this.source) return;
      if (this.silent) show("live");
      this.silent = false;
      this.news = this.tried = Date.now();
    }

    watch() {
      if (this.closed || !this.source) return;
      const silence = Date.now() - this.news;
      if (silence < SILENCE) return;
      this.silent = true;
      if (Date.now() - this.tried >= SILENCE) {
        this.tried = Date.now();
        this.source.close();
        this.source = null;
        this.open();
      }
      show(`no news for ${duration(silence / 1000)}`, "silent");
    }

    open() {
      if (this.closed || this.source) return;
      this.source = new EventSource(this.address);
      if (!this.silent) this.news = this.tried = Date.now();
      this.source.onopen = (event) => {
        if (!this.silent) show("live");
        if (this.missed) htmx.trigger(document.body, "return");
        this.missed = true; // what comes between this connection and another
        if (this.onopen) this.onopen(event);
      };
      this.source.onerror = () => {
        show("reconnecting");
        if (this.source && this.source.readyState === EventSource.CLOSED) {
          this.pause("reconnecting");
          window.setTimeout(() => document.hidden || this.open(), RETRY);
        }
      };
      for (const name of this.names) this.relay(name);
    }

    pause(state = "paused") {
      if (this.source) this.source.close();
      this.source = null;
      this.silent = false;
      show(state);
    }

    close() {
      this.closed = true;
      window.clearInterval(this.watching);
      document.removeEventListener("visibilitychange", this.toggle);
      this.pause();
    }
  }

  let shown; // the text and the state of the connection

  function show(text, state = text) {
    shown = [text, state];
    for (const element of document.querySelectorAll("[data-live]")) {
      element.hidden = false;
      element.dataset.state = state;
      element.textContent = text;
    }
  }

  // As `duration` in text.py, for a second and more.
  function duration(seconds) {
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${Math.floor(seconds)} s`;
  }

  function ago(at) {
    const seconds = (Date.now() - at) / 1000;
    if (Math.abs(seconds) < 1) return "now";
    return seconds > 0 ? `${duration(seconds)} ago` : `in ${duration(-seconds)}`;
  }

  function countTimes() {
    if (document.hidden) return;
    for (const element of document.querySelectorAll("time[data-relative]")) {
      const text = ago(Date.parse(element.dateTime));
      if (element.textContent !== text) element.textContent = text;
    }
  }

  const paces = new Map(); // of each element that follows changes, by its id

  // The first change is requested at once, and each further one of a busy page after a longer wait, so that a page costs
  // little while many events arrive. A change that waits is requested in the end, so none is lost.
  function isTooEarly(element) {
    const now = Date.now();
    const pace = paces.get(element.id) || { next: 0, wait: 0, timer: 0 };
    paces.set(element.id, pace);
    if (now < pace.next) {
      pace.timer = pace.timer || window.setTimeout(() => {
        pace.timer = 0;
        const current = document.getElementById(element.id);
        if (current && !document.hidden) htmx.trigger(current, CHANGED);
      }, pace.next - now);
      return true;
    }
    pace.wait = now > pace.next + MAX_WAIT ? PACE : Math.min(pace.wait + PACE, MAX_WAIT);
    pace.next = now + pace.wait;
    return false;
  }

  function refresh() {
    if (!document.hidden) htmx.trigger(document.body, "refresh");
  }

  // A list that grows at its top keeps its newest rows only.
  function trim(list) {
    const most = Number(list.dataset.keep);
    while (most && list.children.length > most) list.lastElementChild.remove();
  }

  htmx.createEventSource = (address) => new PausableSource(address);
  document.addEventListener("htmx:afterSwap", (event) => {
    const list = event.target.closest && event.target.closest("[data-keep]");
    if (list) trim(list);
    if (shown) show(...shown);
  });
  // A refresh must not take the focus or the selection away.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const { elt, requestConfig } = event.detail;
    const cause = requestConfig.triggeringEvent ? requestConfig.triggeringEvent.type : "";
    if (cause !== "refresh" && !cause.startsWith("sse:")) return;
    const chosen = document.getSelection();
    const selected = !chosen.isCollapsed && elt.contains(chosen.anchorNode);
    const used = selected || elt.contains(document.activeElement);
    if (used || (cause === CHANGED && isTooEarly(elt))) event.preventDefault();
    if (used) show(IN_USE);
    else if (document.querySelector(`[data-state="${IN_USE}"]`)) show("live");
  });
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 401) window.location.reload();
  });
  document.addEventListener("visibilitychange", refresh);
  window.setInterval(refresh, REFRESH);
  window.setInterval(countTimes, COUNT);
})();
