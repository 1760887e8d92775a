// Opens the Jaeger interface in a headless Chromium as a person would, and looks at two traces of
// `GET /call-echo`: one that went well and one that failed.
//
//   node jaeger.mjs --ui URL [--service-a URL --service-b URL] [--screenshot FILE]
//                   [--chromium /usr/bin/chromium]
//
// With the services' addresses it makes the two requests itself (service-a needs
// FAULTS_ENABLED=true); without them the traces are expected to be there. Every wait is for a
// condition, with a deadline. It exits with 1 and one line that says what was not so.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';

const DEADLINE_MS = 20_000;
const SPAN_ROW = '.span-row';
const ERROR_MARK = '.SpanBarRow--errorIcon';

const { values: options } = parseArgs({
  options: {
    ui: { type: 'string' },
    'service-a': { type: 'string' },
    'service-b': { type: 'string' },
    screenshot: { type: 'string' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
  },
});
if (!options.ui || !options['service-a'] !== !options['service-b']) {
  fail('usage: node jaeger.mjs --ui URL [--service-a URL --service-b URL] [--screenshot FILE] [--chromium PATH]');
}
const ui = options.ui.replace(/\/+$/, '');

function fail(message) {
  console.error(message);
  process.exit(1);
}

function check(condition, message) {
  if (!condition) throw new Error(message);
}

/** Asks again until the answer is there; the deadline's error says what was missing. */
async function eventually(what, ask) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    check(Date.now() < end, `not within ${DEADLINE_MS / 1000} s: ${what}`);
    await new Promise((resume) => setTimeout(resume, 100));
  }
}

/** The trace of one request to service-b, by the id that its answer names. */
async function call(status) {
  const answer = await fetch(`${options['service-b']}/call-echo?msg=hello`);
  check(answer.status === status, `GET /call-echo answered ${answer.status} and not ${status}`);
  const id = answer.headers.get('x-trace-id');
  check(id, 'the answer of GET /call-echo has no x-trace-id');
  return id;
}

/** One request that succeeds, then one that service-a fails on purpose. */
async function callBoth() {
  const good = await call(200);
  const faults = `${options['service-a']}/faults`;
  const body = JSON.stringify({ status: 500, error_rate: 1.0 });
  const put = await fetch(faults, { method: 'PUT', headers: { 'content-type': 'application/json' }, body });
  check(put.ok, `PUT /faults answered ${put.status}`);
  try {
    return { good, bad: await call(503) };
  } finally {
    await fetch(faults, { method: 'DELETE' });
  }
}

async function api(path) {
  const answer = await fetch(`${ui}/api${path}`);
  return answer.ok ? (await answer.json()).data : null;
}

const hasError = (trace) => trace.spans.some((span) => span.tags.some((tag) => tag.key === 'error' && tag.value === true));

/** The newest whole trace of either sort among those that are there. */
async function newestOfBoth() {
  const traces = (await api('/traces?service=service-b&limit=100')) ?? [];
  const whole = traces.filter((trace) => trace.spans.length === 3);
  const good = whole.find((trace) => !hasError(trace))?.traceID;
  const bad = whole.find(hasError)?.traceID;
  return good && bad && { good, bad };
}

/** The two traces once all their spans have arrived. */
async function traces() {
  if (!options['service-b']) {
    return eventually('a three-span trace that went well and one that failed', newestOfBoth);
  }
  const both = await callBoth();
  for (const id of Object.values(both)) {
    await eventually(`the three spans of trace ${id}`, async () => (await api(`/traces/${id}`))?.[0].spans.length === 3);
  }
  return both;
}

/** Picks a service in the form, searches, and sees the trace among the results. */
async function findByService(page, service, id) {
  await page.goto(`${ui}/search`);
  // The list of services is fetched after the page: the count beside the label says it is there.
  await page.locator('label', { hasText: /^Service/ }).filter({ hasText: /\([1-9]\d*\)/ }).waitFor();
  await page.locator('.ant-select').first().click();
  await page.locator('.ant-select-item-option', { hasText: new RegExp(`^${service}$`) }).click();
  const button = page.getByRole('button', { name: 'Find Traces' });
  await button.click();
  await page.locator(`a[href*="/trace/${id}"]`).first().waitFor();
}

/** Opens a trace and sees three spans of both services, with red marks or without. */
async function openTrace(page, id, failed) {
  await page.goto(`${ui}/trace/${id}`);
  await page.locator(SPAN_ROW).nth(2).waitFor();
  const rows = await page.locator(SPAN_ROW).count();
  check(rows === 3, `the trace ${id} shows ${rows} spans and not 3`);
  const timeline = await page.locator('.VirtualizedTraceView--spans').innerText();
  for (const text of ['service-b', 'service-a', 'GET /call-echo', 'GET /echo']) {
    check(timeline.includes(text), `the trace ${id} does not show ${text}`);
  }
  const marks = await page.locator(ERROR_MARK).count();
  check(failed ? marks > 0 : marks === 0, `the trace ${id} shows ${marks} error marks`);
  if (failed) {
    const color = await page.locator(ERROR_MARK).first().evaluate((mark) => {
      const { color, backgroundColor } = getComputedStyle(mark);
      return { color, backgroundColor };
    });
    check(Object.values(color).some(isRed), `the error mark is not red: ${JSON.stringify(color)}`);
  }
}

function isRed(color) {
  const [red, green, blue, alpha = 1] = color.match(/[\d.]+/g).map(Number);
  return alpha > 0 && red > 150 && red > 2 * green && red > 2 * blue;
}

async function compare(page, { good, bad }) {
  await page.goto(`${ui}/trace/${good}...${bad}`);
  await page.locator('.DiffNode').nth(2).waitFor();
  await noErrorPage(page, 'Compare');
}

async function systemArchitecture(page) {
  await page.goto(`${ui}/search`);
  await page.getByRole('link', { name: 'System Architecture' }).click();
  for (const service of ['service-a', 'service-b']) {
    await page.locator('.DAG--nodeLabel', { hasText: service }).waitFor();
  }
  await noErrorPage(page, 'System Architecture');
}

async function noErrorPage(page, name) {
  const errors = await page.locator('.ErrorMessage').allInnerTexts();
  check(errors.length === 0, `the page ${name} shows an error: ${errors.join(' ')}`);
}

/** Everything that went wrong behind the pages. */
function watch(page) {
  const wrong = [];
  page.on('pageerror', (error) => wrong.push(`script error: ${error.message}`));
  page.on('console', (message) => message.type() === 'error' && wrong.push(`console: ${message.text()}`));
  page.on('response', (response) => response.status() >= 400 && wrong.push(`${response.status()} ${response.url()}`));
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(`${ui}/`) && !/^(data|blob):/.test(url)) wrong.push(`asks another server: ${url}`);
  });
  return wrong;
}

async function run(browser) {
  const both = await traces();
  const page = await browser.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  const wrong = watch(page);
  await findByService(page, 'service-a', both.good);
  await findByService(page, 'service-b', both.good);
  await openTrace(page, both.bad, true);
  await compare(page, both);
  await systemArchitecture(page);
  await openTrace(page, both.good, false);
  if (options.screenshot) {
    await page.setViewportSize({ width: 1200, height: 360 });
    await page.screenshot({ path: options.screenshot });
  }
  check(wrong.length === 0, `behind the pages:\n${wrong.join('\n')}`);
}

const profile = await mkdtemp(join(tmpdir(), 'jaeger-browser-'));
let browser;
try {
  browser = await chromium.launchPersistentContext(profile, {
    executablePath: options.chromium,
    viewport: { width: 1200, height: 800 },
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  await run(browser);
  console.log('the interface shows both traces: search, timeline, Compare and System Architecture');
} catch (error) {
  console.error(`browser test failed: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser?.close();
  await rm(profile, { recursive: true, force: true });
}
