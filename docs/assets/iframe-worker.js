// Browsers refuse to start a worker from a file on disk. The search of such a page runs in a hidden frame instead.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inner = frame.contentWindow
      this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      const load = (source) =>
        new Promise((resolve) => {
          const script = frame.contentDocument.createElement("script")
          script.src = source
          script.onload = resolve
          frame.contentDocument.body.append(script)
        })
      this.inner.importScripts = (...sources) => sources.reduce((done, next) => done.then(() => load(next)), Promise.resolve())
      this.ready = load(url)
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data })))
    }
  }
