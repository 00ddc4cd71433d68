"""A headless Chromium, driven by its DevTools protocol over two pipes.

Standard library only: messages are JSON, each followed by a zero byte.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time

FLAGS = (
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
  '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--remote-debugging-pipe',
)  # fmt: skip
SECONDS = 30  # for one answer
# Puts a browser where its pipes are 3 and 4: between fork and exec of a process
# with threads, as jax's, nothing of Python may run.
_PLACE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
# Text whose contrast to what is behind it is below 4.5 : 1, and how far the
# page reaches beyond the window.
MEASURE = """
(() => {
  const parse = text => (text.match(/[0-9.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(x => x / 255).map(
    x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4
  ).reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  let count = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('style')) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const is_svg = element instanceof SVGElement;
    const [a, b] = [parse(is_svg ? style.fill : style.color), behind(element)]
      .map(light).sort().reverse();
    count += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5)
      faint.push(walker.currentNode.data.trim().slice(0, 30));
  }
  const root = document.documentElement;
  return {
    beyond: root.scrollWidth - window.innerWidth, faint, count,
    background: parse(getComputedStyle(document.body).backgroundColor),
    unnamed: [...document.querySelectorAll('svg')].filter(
      e => e.parentElement.matches('figure') && !e.getAttribute('aria-label')
    ).length,
  };
})()
"""


def find():
  """The path of a browser, or None."""
  names = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
  return next(filter(None, map(shutil.which, names)), None)


class Browser:
  """A context manager; `visit` opens a page as a reader would see it."""

  def __init__(self, path, profile):
    # Above 4: the child has its ends as 3 and 4.
    ends = [
      fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (*os.pipe(), *os.pipe())
    ]
    theirs_in, self._out, self._in, theirs_out = ends

    self._process = subprocess.Popen(
      [
        *(sys.executable, '-S', '-c', _PLACE, str(theirs_in), str(theirs_out)),
        *(path, *FLAGS, f'--user-data-dir={profile}', 'about:blank'),
      ],
      pass_fds=(theirs_in, theirs_out),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    self._number, self._rest, self._events = 0, b'', []

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    try:
      self._call('Browser.close')
      self._process.wait(SECONDS)
    finally:
      self._process.kill()
      os.close(self._out)
      os.close(self._in)

  def visit(self, url, width, scheme, screenshot=None):
    """(what MEASURE gives, problems): errors and requests that failed."""
    target = self._call('Target.createTarget', url='about:blank')['targetId']
    session = self._call(
      'Target.attachToTarget', targetId=target, flatten=True
    )['sessionId']

    def call(method, **params):
      return self._call(method, session, **params)

    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      call(f'{domain}.enable')
    size = {'width': width, 'height': 900, 'deviceScaleFactor': 1}
    call('Emulation.setDeviceMetricsOverride', mobile=False, **size)
    feature = {'name': 'prefers-color-scheme', 'value': scheme}
    call('Emulation.setEmulatedMedia', features=[feature])
    self._events.clear()
    call('Page.navigate', url=url)
    while not any(e['method'] == 'Page.loadEventFired' for e in self._events):
      self._events.append(self._read())
    found = call('Runtime.evaluate', expression=MEASURE, returnByValue=True)
    if screenshot is not None:
      image = call('Page.captureScreenshot', captureBeyondViewport=True)
      screenshot.write_bytes(base64.b64decode(image['data']))
    problems = [p for p in map(_problem, self._events) if p]
    self._call('Target.closeTarget', targetId=target)
    return found['result']['value'], problems

  def _call(self, method, session=None, **params):
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': params}
    if session:
      message['sessionId'] = session
    os.write(self._out, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._read()
      if answer.get('id') == self._number:
        assert 'error' not in answer, answer
        return answer['result']
      if 'method' in answer:
        self._events.append(answer)

  def _read(self):
    end = time.monotonic() + SECONDS
    while b'\0' not in self._rest:
      left = max(end - time.monotonic(), 0)
      ready, _, _ = select.select([self._in], [], [], left)
      assert ready, f'the browser says nothing for {SECONDS} s'
      part = os.read(self._in, 2**16)
      assert part, 'the browser is gone'
      self._rest += part
    message, _, self._rest = self._rest.partition(b'\0')
    return json.loads(message)


def _high(descriptor):
  """The same, above those that the child takes."""
  moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
  os.close(descriptor)
  return moved


def _problem(event):
  """What is wrong by an event; '' if nothing."""
  params = event.get('params', {})
  match event['method']:
    case 'Runtime.exceptionThrown':
      return f'exception: {params["exceptionDetails"].get("text")}'
    case 'Runtime.consoleAPICalled' if params['type'] in ('error', 'warning'):
      return f'console: {params["args"]}'
    case 'Log.entryAdded' if params['entry']['level'] in ('error', 'warning'):
      return f'log: {params["entry"]["text"]}'
    case 'Network.loadingFailed':
      return f'failed: {params.get("errorText")}'
    case 'Network.requestWillBeSent':
      url = params['request']['url']
      return '' if url.startswith(('file:', 'data:')) else f'request: {url}'
  return ''
