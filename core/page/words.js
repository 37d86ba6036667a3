// The page's words in two languages, and numbers and times as a person reads them.

const WORDS = {
  skip: ['Skip to content', '跳到内容'],
  login: ['Operator log in', '管理员登录'],
  key: ['Operator key', '管理员密钥'],
  enter: ['Log in', '登录'],
  leave: ['Log out', '退出'],
  tabs: ['Sections', '栏目'],
  overview: ['Overview', '总览'],
  rollouts: ['Rollouts', '灰度发布'],
  approvals: ['Approvals', '审批'],
  turns: ['Find a turn', '查找请求'],
  feedback: ['Feedback', '用户反馈'],
  queue: ['Queue', '队列与熔断'],
  config: ['Configuration', '配置版本'],
  no: ['Cancel', '取消'],
  wrongKey: ['This key is not valid here.', '密钥无效。'],
  timeOver: ['The session is over. Log in again.', '会话已结束，请重新登录。'],
  unreachable: ['The gateway does not answer. What is shown is from {0}.', '网关无响应，以下为 {0} 的数据。'],
  refused: ['Not done: {0}', '未执行：{0}'],
  loading: ['Loading…', '加载中…'],
  absent: ['This gateway does not have that.', '此网关没有这一功能。'],
  allWell: ['Nothing needs you.', '一切正常，无需处理。'],
  waitForSecond: ['Collecting. The first rates come with the second look.', '采集中，第二次读取后显示速率。'],
  failing: ['{0}: {1} of its requests fail', '{0}：{1} 的请求失败'],
  falling: ['{0}: {1} of its answers are a fallback’s', '{0}：{1} 的回答来自后备模型'],
  breakerOpen: ['{0}: the breaker is {1}', '{0}：熔断器{1}'],
  queueLong: ['{0}: {1} wait in the queue', '{0}：{1} 个请求在排队'],
  rolledBack: ['{0}: the new version was rolled back ({1})', '{0}：新版本已回滚（{1}）'],
  toApprove: ['Waiting for a decision: {0}', '等待审批：{0}'],
  toolFails: ['{0}: {1} of its calls fail', '{0}：{1} 的调用失败'],
  rates: ['Per second', '每秒'],
  latency: ['Time of turns', '请求耗时'],
  requests: ['requests', '请求'],
  errors: ['errors', '错误'],
  timeouts: ['timeouts', '超时'],
  refusals: ['refusals', '拒答'],
  fallbacks: ['fallbacks', '后备'],
  cacheHits: ['from the cache', '缓存命中'],
  tokens: ['tokens', 'token'],
  firstToken: ['first token p95', '首 token p95'],
  perSecond: ['{0}/s', '{0}/秒'],
  lastMinute: ['Last minute', '最近一分钟'],
  sinceStart: ['Since {0}', '自 {0} 起'],
  noTurns: ['No turns yet.', '还没有请求。'],
  rejected: ['turned away', '被限流'],
  schemaFailures: ['against the schema', '不符合 schema'],
  tools: ['Tools', '工具'],
  calls: ['calls', '调用'],
  failures: ['failures', '失败'],
  upstreams: ['Models and their queues', '模型与队列'],
  running: ['running', '运行中'],
  waiting: ['waiting', '排队'],
  breaker: ['breaker', '熔断器'],
  closed: ['closed', '关闭'],
  half_open: ['half open', '半开'],
  open: ['open', '打开'],
  abuse: ['Signs of abuse', '滥用迹象'],
  repeated: ['repeated', '重复'],
  payload_spike: ['far too large', '超大请求'],
  rate_limited: ['over the rate', '限流'],
  slowed: ['slowed', '减速'],
  restricted: ['restricted', '受限'],
  blocked: ['blocked', '封禁'],
  noRollouts: ['No rollout is configured.', '没有配置灰度发布。'],
  version: ['version', '版本'],
  old: ['running version', '当前版本'],
  new: ['new version', '新版本'],
  turnsSeen: ['turns', '请求数'],
  failed: ['failed', '失败'],
  empty: ['empty', '空回答'],
  schema: ['against the schema', '不符合 schema'],
  p95: ['p95', 'p95'],
  average: ['tokens per turn', '每次 token'],
  disliked: ['disliked', '差评率'],
  gets: ['{0} of people get the new version · step {1} of {2} · since {3}', '{0} 的用户使用新版本 · 第 {1}/{2} 步 · 自 {3}'],
  forbidden: ['This environment forbids the new version: nobody has it.', '当前环境禁止新版本，没有用户使用它。'],
  verdictNone: ['The guard sees nothing wrong.', '守护检查未发现问题。'],
  verdict: ['The guard found the new version worse: {0}, at {1}', '守护检查发现新版本更差：{0}（{1}）'],
  state_running: ['running', '进行中'],
  state_held: ['held', '已暂停'],
  state_promoted: ['promoted', '已全量'],
  state_rolled_back: ['rolled back', '已回滚'],
  hold: ['Hold', '暂停'],
  resume: ['Resume', '继续'],
  promote: ['Promote', '全量发布'],
  roll_back: ['Roll back', '回滚'],
  sureHold: ['No more steps; the share stays. The guard goes on.', '不再推进，比例不变，守护检查继续。'],
  sureResume: ['It goes on; after a promotion or a rollback it begins again at the first step.', '继续推进；若已全量或回滚，则从第一步重新开始。'],
  surePromote: ['Everybody gets {0} from the next turn on. The guard is off then.', '从下一次请求起所有用户使用 {0}，守护检查随之关闭。'],
  sureRollBack: ['Everybody gets {0} from the next turn on.', '从下一次请求起所有用户使用 {0}。'],
  ordered: ['{0}: done.', '{0}：已执行。'],
  unchanged: ['{0}: it stood so already.', '{0}：状态未变。'],
  noApprovals: ['Nothing waits for an operator.', '没有等待审批的操作。'],
  until: ['until {0}', '截止 {0}'],
  exact: ['Exactly these arguments will be sent', '将原样发送以下参数'],
  given: ['{0} of {1} have agreed', '已有 {0}/{1} 人同意'],
  approve: ['Approve', '同意'],
  refuse: ['Refuse', '拒绝'],
  sureApprove: ['It is done once, with exactly the arguments that are shown.', '将按所示参数执行一次。'],
  sureRefuse: ['It is not done, and the person is told.', '不会执行，并告知用户。'],
  decided: ['Decision: {0}', '结果：{0}'],
  gone: ['It was decided elsewhere, or its time is over.', '已由他人决定或已过期。'],
  traceId: ['Trace or request id', 'Trace ID 或请求 ID'],
  find: ['Find', '查找'],
  findHelp: ['From the answer’s X-Trace-Id, a log line, or a person’s report.', '来自响应头 X-Trace-Id、日志或用户反馈。'],
  nothingFound: ['Nothing is known of {0}. Records come some moments after the request.', '没有找到 {0}。记录会在请求结束后片刻写入。'],
  replay: ['Replay', '重放'],
  replayHelp: ['On the native host’s machine, offline, where texts may be kept:', '在本机宿主所在机器上离线运行（需允许保存内容）：'],
  copy: ['Copy', '复制'],
  copied: ['Copied.', '已复制。'],
  stages: ['Time line', '时间线'],
  queued: ['gates and queue', '检查与排队'],
  toFirst: ['model, until the first text', '模型首字之前'],
  rest: ['the rest', '其余'],
  decisions: ['Decisions', '决策'],
  records: ['Audit records', '审计记录'],
  asItIs: ['As it is', '原文'],
  turnNow: ['The turn now', '请求当前状态'],
  noFeedback: ['No feedback yet.', '还没有反馈。'],
  up: ['good', '好评'],
  down: ['bad', '差评'],
  newest: ['Newest first', '最新在前'],
  running_config: ['running', '运行中'],
  compare: ['Compare with the running one', '与运行中的版本比较'],
  noVersions: ['No versions are kept.', '没有保存的版本。'],
  sureConfig: ['Requests that begin after it use {0}.', '此后的新请求使用 {0}。'],
  backTo: ['Roll back to this version', '回滚到此版本'],
  same: ['No line differs.', '没有差异。'],
  by: ['by', '由'],
};

const KEPT = 'minigate-language';

function first() {
  try {
    const kept = localStorage.getItem(KEPT);
    if (kept === 'zh' || kept === 'en') return kept;
  } catch {
    // A browser that keeps nothing.
  }
  return navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}

let now = first();

export const language = () => (now === 'zh' ? 'zh-CN' : 'en');

/** The other language, from now on and the next time. */
export function switchLanguage() {
  now = now === 'zh' ? 'en' : 'zh';
  try {
    localStorage.setItem(KEPT, now);
  } catch {
    // It holds as long as the page.
  }
}

/** A word or sentence, with what is to be put into it; what is not a word here is shown as it is. */
export function t(name, ...values) {
  const text = Object.hasOwn(WORDS, name) ? WORDS[name][now === 'zh' ? 1 : 0] : String(name);
  return text.replace(/\{(\d)\}/g, (_, at) => values[at] ?? '');
}

/** The words of what is there from the beginning. */
export function translate(root) {
  document.documentElement.lang = language();
  for (const one of root.querySelectorAll('[data-t]')) one.textContent = t(one.dataset.t);
  for (const one of root.querySelectorAll('[data-label]')) one.setAttribute('aria-label', t(one.dataset.label));
}

export const count = (value) => (value ?? null) === null ? '–' : new Intl.NumberFormat(language()).format(value);

export const percent = (part) =>
  new Intl.NumberFormat(language(), { style: 'percent', maximumFractionDigits: 1 }).format(part);

export const rate = (value) =>
  t('perSecond', new Intl.NumberFormat(language(), { maximumSignificantDigits: 2 }).format(value));

/** Milliseconds. */
export function ms(value) {
  if ((value ?? null) === null) return '–';
  if (value < 1000) return `${Math.round(value)} ms`;
  return `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
}

/** A moment, from milliseconds since 1970 or ISO 8601; with its day when it is not today's. */
export function moment(at) {
  const date = new Date(at);
  if ((at ?? null) === null || Number.isNaN(date.getTime())) return '–';
  const today = date.toDateString() === new Date().toDateString();
  const day = today ? {} : { month: '2-digit', day: '2-digit' };
  return new Intl.DateTimeFormat(language(), {
    ...day, hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false,
  }).format(date);
}
