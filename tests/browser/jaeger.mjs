// Opens the user interface of Jaeger in a headless Chromium and checks two traces of `GET /call-echo`: one that
// succeeded and one that failed.
//
//   node jaeger.mjs --ui URL [--service-a URL --service-b URL] [--screenshot FILE]
//                   [--monitor-screenshot FILE]
//                   [--chromium /usr/bin/chromium]
//
// With the addresses of the services it sends the two requests (service-a needs FAULTS_ENABLED=true). Without them
// it uses the newest stored traces. Each wait polls a condition with a deadline. It exits with code 1 and one line
// about the first failed check.

import { mkdtemp, readFile, rm } from 'node:fs/promises';
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
    'monitor-screenshot': { type: 'string' },
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

/** Polls until `poll` returns a value and returns it. Fails at the deadline. */
async function eventually(description, poll) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const value = await poll();
    if (value) return value;
    check(Date.now() < end, `not within ${DEADLINE_MS / 1000} s: ${description}`);
    await new Promise((resume) => setTimeout(resume, 100));
  }
}

/** Sends a request to service-b and returns its trace id. */
async function call(status) {
  const response = await fetch(`${options['service-b']}/call-echo?msg=hello`);
  check(response.status === status, `GET /call-echo returned ${response.status} instead of ${status}`);
  const id = response.headers.get('x-trace-id');
  check(id, 'the response of GET /call-echo has no x-trace-id');
  return id;
}

/** Sends one request that succeeds and one that fails because of an injected fault. */
async function callBoth() {
  const good = await call(200);
  const faults = `${options['service-a']}/faults`;
  const body = JSON.stringify({ status: 500, error_rate: 1.0 });
  const put = await fetch(faults, { method: 'PUT', headers: { 'content-type': 'application/json' }, body });
  check(put.ok, `PUT /faults returned ${put.status}`);
  try {
    return { good, bad: await call(503) };
  } finally {
    await fetch(faults, { method: 'DELETE' });
  }
}

async function api(path) {
  const response = await fetch(`${ui}/api${path}`);
  return response.ok ? (await response.json()).data : null;
}

const hasError = (trace) => trace.spans.some((span) => span.tags.some((tag) => tag.key === 'error' && tag.value === true));

/** Returns the newest stored successful trace and the newest failed one. */
async function newestOfBoth() {
  const traces = (await api('/traces?service=service-b&limit=100')) ?? [];
  const complete = traces.filter((trace) => trace.spans.length === 3);
  const good = complete.find((trace) => !hasError(trace))?.traceID;
  const bad = complete.find(hasError)?.traceID;
  return good && bad && { good, bad };
}

/** Returns the ids of both traces after all their spans have arrived. */
async function traces() {
  if (!options['service-b']) {
    return eventually('a successful and a failed trace of three spans', newestOfBoth);
  }
  const both = await callBoth();
  for (const id of Object.values(both)) {
    await eventually(`the three spans of trace ${id}`, async () => (await api(`/traces/${id}`))?.[0].spans.length === 3);
  }
  return both;
}

/** Selects a service in the form, searches, and waits for the trace among the results. */
async function findByService(page, service, id) {
  await page.goto(`${ui}/search`);
  // The list of services loads after the page. The count beside the label appears when it is complete.
  await page.locator('label', { hasText: /^Service/ }).filter({ hasText: /\([1-9]\d*\)/ }).waitFor();
  await page.locator('.ant-select').first().click();
  await page.locator('.ant-select-item-option', { hasText: new RegExp(`^${service}$`) }).click();
  const button = page.getByRole('button', { name: 'Find Traces' });
  await button.click();
  await page.locator(`a[href*="/trace/${id}"]`).first().waitFor();
}

/** Downloads the results of the search and checks for the trace in the file. */
async function downloadResults(page, id) {
  const button = page.getByRole('button', { name: 'Download Results' });
  const [download] = await Promise.all([page.waitForEvent('download'), button.click()]);
  const { data } = JSON.parse(await readFile(await download.path(), 'utf8'));
  const spans = data.find((trace) => trace.traceID === id)?.spans.length;
  check(spans === 3, `the downloaded results have ${spans} spans of the trace ${id} instead of 3`);
}

/** Opens the JSON of the trace from its page. */
async function traceJson(page, id) {
  await page.getByRole('button', { name: 'Trace Timeline' }).hover();
  const item = page.getByRole('link', { name: 'Trace JSON', exact: true });
  const [json] = await Promise.all([page.context().waitForEvent('page'), item.click()]);
  const { data } = JSON.parse(await json.locator('pre').innerText());
  check(data[0].traceID === id, `Trace JSON shows the trace ${data[0].traceID} instead of ${id}`);
  await json.close();
}

/** Opens a trace and checks for three spans of both services, with red error marks only if it failed. */
async function openTrace(page, id, failed) {
  await page.goto(`${ui}/trace/${id}`);
  await page.locator(SPAN_ROW).nth(2).waitFor();
  const rows = await page.locator(SPAN_ROW).count();
  check(rows === 3, `the trace ${id} shows ${rows} spans instead of 3`);
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

/** Opens the Monitor page, which a Jaeger without metrics does not have, and checks its table of operations. */
async function monitor(page) {
  await page.goto(`${ui}/search`);
  const link = page.getByRole('link', { name: 'Monitor' });
  if ((await link.count()) === 0) return;
  await link.click();
  await page.locator('.ant-table-row', { hasText: 'GET /' }).first().waitFor();
  await noErrorPage(page, 'Monitor');
  if (options['monitor-screenshot']) {
    await page.setViewportSize({ width: 1200, height: 800 });
    await page.screenshot({ path: options['monitor-screenshot'] });
  }
}

async function noErrorPage(page, name) {
  const errors = await page.locator('.ErrorMessage').allInnerTexts();
  check(errors.length === 0, `the page ${name} shows an error: ${errors.join(' ')}`);
}

/** Collects script errors, failed requests and requests to other servers. */
function collectErrors(page) {
  const errors = [];
  page.on('pageerror', (error) => errors.push(`script error: ${error.message}`));
  page.on('console', (message) => message.type() === 'error' && errors.push(`console: ${message.text()}`));
  page.on('response', (response) => response.status() >= 400 && errors.push(`${response.status()} ${response.url()}`));
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(`${ui}/`) && !/^(data|blob):/.test(url)) errors.push(`request to another server: ${url}`);
  });
  return errors;
}

async function run(browser) {
  const both = await traces();
  const page = await browser.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  const errors = collectErrors(page);
  await findByService(page, 'service-a', both.good);
  await findByService(page, 'service-b', both.good);
  await downloadResults(page, both.good);
  await openTrace(page, both.bad, true);
  await compare(page, both);
  await systemArchitecture(page);
  await monitor(page);
  await openTrace(page, both.good, false);
  await traceJson(page, both.good);
  if (options.screenshot) {
    await page.setViewportSize({ width: 1200, height: 360 });
    await page.screenshot({ path: options.screenshot });
  }
  check(errors.length === 0, `errors in the browser:\n${errors.join('\n')}`);
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
  console.log('the user interface shows both traces: search, download, timeline, JSON, Compare, System Architecture and Monitor');
} catch (error) {
  console.error(`browser test failed: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser?.close();
  await rm(profile, { recursive: true, force: true });
}
