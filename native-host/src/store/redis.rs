//! A Redis or Valkey server that several hosts share.
//!
//! An operation reads the key, is reduced here, and is written only if the key has not changed
//! since (compare-and-set in a script, which the server runs alone); otherwise it is reduced
//! again on what is there now. The tasks of one host do not compete: they stand in line at a key
//! ([`Lines`]). The script also tells all hosts which tickets to wake, and keeps the key's alarm in a
//! sorted set beside the cells. Each host looks into it each second, and at once when its own operations
//! have set an alarm to now; it takes what is due by setting it ahead, so that usually one host has it. A
//! connection that broke is made again in the background; until then operations fail at once,
//! and the policy says what that means.

use std::{cell::RefCell, sync::Arc, thread, time::Duration};

use futures_util::{StreamExt as _, future::join};
use minigate_core::state::{Op, Outcome};
use redis::{
    Client, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::sync::{Notify, OnceCell};

use super::{
    Clock, Listeners,
    alarms::{AGAIN_MS, Alarms, LOOK},
    failed,
    lines::Lines,
    reduce,
};
use crate::{module::Core, server};

/// How long the server may take for one command.
const PATIENCE: Duration = Duration::from_millis(800);
/// How often an operation is reduced again before the store counts as failed. With `n` hosts
/// at one key one of them gets through each time.
const MOST_TRIES: u32 = 64;
/// The channel of the tickets to wake.
const CHANNEL: &str = "minigate:wake";
/// What stands before every key, so that the server can be shared with something else.
const PREFIX: &str = "minigate:";

/// When each key's alarm goes off: a sorted set. Not below [`PREFIX`], where any name may be a key's.
const ALARMS: &str = "minigate-alarms";
/// The reducers' last word on each of them, a hash: an alarm that has gone off is later in the set. A key
/// is in both or in none.
const WANTED: &str = "minigate-alarms-wanted";
/// Alarms that are taken at once.
const MOST_TAKEN: u32 = 32;

/// The key, [`ALARMS`] and [`WANTED`]; then the old value or an empty string, the new one or an empty
/// string for none, the time to live, the channel, the tickets or an empty string, and the alarm or an
/// empty string. Gives nothing when it was written, else what is there now. The same alarm again is no
/// other one.
const COMPARE_AND_SET: &str = r"
local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return now end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
if ARGV[5] ~= '' then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
if ARGV[2] == '' or ARGV[6] == '' then
  if redis.call('ZREM', KEYS[2], KEYS[1]) == 1 then redis.call('HDEL', KEYS[3], KEYS[1]) end
elseif now == '' or redis.call('HGET', KEYS[3], KEYS[1]) ~= ARGV[6] then
  redis.call('ZADD', KEYS[2], ARGV[6], KEYS[1])
  redis.call('HSET', KEYS[3], KEYS[1], ARGV[6])
end
return nil";

/// [`ALARMS`] and [`WANTED`]; then the time, when what is taken goes off again, and how many at most. Gives
/// how many were due and the keys of those that are still there.
const TAKE: &str = r"
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
local taken = {}
for _, key in ipairs(due) do
  if redis.call('EXISTS', key) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[2], key)
    taken[#taken + 1] = key
  else
    redis.call('ZREM', KEYS[1], key)
    redis.call('HDEL', KEYS[2], key)
  end
end
return {#due, taken}";

/// A handle to the server; each thread makes its own connection.
#[derive(Clone)]
pub(super) struct Redis {
    client: Client,
    connection: Arc<OnceCell<ConnectionManager>>,
    script: Arc<Script>,
    lines: Lines,
    clock: Clock,
    due: Arc<Due>,
}

/// The alarms that this host has taken, for its threads.
#[derive(Debug, Default)]
struct Due {
    alarms: Alarms,
    /// Some may be due now.
    look: Notify,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redis")
    }
}

impl Redis {
    /// Reads the URL, and begins to listen for tickets and to look for alarms.
    pub(super) fn open(url: &str, listeners: Listeners, clock: Clock) -> Result<Self, String> {
        // The error could show the password.
        let client = Client::open(url).map_err(|_| {
            "STORE_URL: not a valid URL; for example redis://:password@127.0.0.1:6379/0".to_owned()
        })?;
        let redis = Self {
            client,
            connection: Arc::default(),
            script: Arc::new(Script::new(COMPARE_AND_SET)),
            lines: Lines::default(),
            clock,
            due: Arc::default(),
        };
        let beside = redis.separate();
        thread::Builder::new()
            .name("wakes".into())
            .spawn(move || match server::runtime() {
                Ok(runtime) => runtime.block_on(async {
                    join(subscribe(&beside.client, &listeners), beside.look()).await;
                }),
                Err(problem) => failed(&problem),
            })
            .map_err(|error| format!("STORE_URL: {error}"))?;
        Ok(redis)
    }

    /// A handle for another thread.
    pub(super) fn separate(&self) -> Self {
        Self { connection: Arc::default(), ..self.clone() }
    }

    async fn connection(&self) -> redis::RedisResult<ConnectionManager> {
        let make = || async {
            let config = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(PATIENCE))
                .set_response_timeout(Some(PATIENCE))
                .set_number_of_retries(1)
                .set_max_delay(PATIENCE);
            ConnectionManager::new_with_config(self.client.clone(), config).await
        };
        self.connection.get_or_try_init(make).await.cloned()
    }

    /// Applies an operation; `None` when the store failed.
    pub(super) async fn apply(&self, core: &RefCell<Core>, key: &str, op: Op) -> Option<Outcome> {
        let applied = tokio::time::timeout(PATIENCE * 2, self.try_apply(core, key, op)).await;
        match applied {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                failed(&error.to_string());
                None
            }
            Err(_) => {
                failed("the server does not answer in time");
                None
            }
        }
    }

    async fn try_apply(
        &self,
        core: &RefCell<Core>,
        key: &str,
        op: Op,
    ) -> redis::RedisResult<Option<Outcome>> {
        let _turn = self.lines.turn(key).await;
        let key = format!("{PREFIX}{key}");
        let mut connection = self.connection().await?;
        let found: Option<Vec<u8>> = redis::cmd("GET").arg(&key).query_async(&mut connection).await?;
        let mut old = found.unwrap_or_default();
        for _ in 0..MOST_TRIES {
            let known = Some(old.as_slice()).filter(|bytes| !bytes.is_empty());
            let Some(reduced) = reduce(core, op.clone(), known, self.clock.unix_ms()) else {
                return Ok(None);
            };
            if op.is_read() || (known.is_none() && reduced.new.is_empty() && reduced.wake.is_empty()) {
                return Ok(Some(reduced.outcome));
            }
            let tickets: Vec<String> = reduced.wake.iter().map(u64::to_string).collect();
            let alarm = reduced.alarm_ms.as_ref().map_or_else(String::new, u64::to_string);
            let mut call = self.script.key(&key);
            call.key(ALARMS).key(WANTED);
            call.arg(old.as_slice()).arg(reduced.new.as_slice()).arg(reduced.ttl_ms.max(1));
            call.arg(CHANNEL).arg(tickets.join(" ")).arg(alarm);
            let there: Option<Vec<u8>> = call.invoke_async(&mut connection).await?;
            let Some(now) = there else {
                if reduced.alarm_ms.is_some_and(|at_ms| at_ms <= self.clock.unix_ms()) {
                    self.due.look.notify_one();
                }
                return Ok(Some(reduced.outcome));
            };
            old = now;
        }
        failed("too many hosts at one key");
        Ok(None)
    }
}

impl Redis {
    /// The key of the next alarm that this host has taken.
    pub(super) async fn alarm(&self) -> String {
        self.due.alarms.next(&self.clock).await
    }

    /// Takes alarms that are due for as long as some thread here has room for one.
    async fn look(&self) {
        let script = Script::new(TAKE);
        let mut well = true;
        loop {
            let mut more = false;
            if self.due.alarms.is_awaited() {
                let taken = tokio::time::timeout(PATIENCE * 2, self.take(&script)).await;
                let taken = taken.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no answer in time").into()));
                match &taken {
                    Ok(all) => more = *all,
                    // Once, and not each second: the requests say it too.
                    Err(error) if well => failed(&format!("alarms: {error}")),
                    Err(_) => {}
                }
                well = taken.is_ok();
            }
            if !more {
                // Whichever comes first.
                let _ = tokio::time::timeout(LOOK, self.due.look.notified()).await;
            }
        }
    }

    /// Takes some alarms; says whether there may be more.
    async fn take(&self, script: &Script) -> redis::RedisResult<bool> {
        let mut connection = self.connection().await?;
        let now = self.clock.unix_ms();
        let mut call = script.key(ALARMS);
        call.key(WANTED).arg(now).arg(now.saturating_add(AGAIN_MS)).arg(MOST_TAKEN);
        let (due, taken): (u32, Vec<String>) = call.invoke_async(&mut connection).await?;
        for key in &taken {
            self.due.alarms.set(key.strip_prefix(PREFIX).unwrap_or(key), Some(now));
        }
        Ok(due >= MOST_TAKEN)
    }
}

/// Wakes whoever waits here for a ticket that any host woke. For as long as the program runs.
async fn subscribe(client: &Client, listeners: &Listeners) {
    loop {
        if let Err(error) = listen(client, listeners).await {
            failed(&format!("wakes: {error}"));
        }
        // Whoever waits asks again by itself meanwhile.
        tokio::time::sleep(PATIENCE).await;
    }
}

async fn listen(client: &Client, listeners: &Listeners) -> redis::RedisResult<()> {
    let mut subscription = client.get_async_pubsub().await?;
    subscription.subscribe(CHANNEL).await?;
    let mut messages = subscription.into_on_message();
    while let Some(message) = messages.next().await {
        let tickets: String = message.get_payload()?;
        let tickets: Vec<u64> = tickets.split(' ').filter_map(|ticket| ticket.parse().ok()).collect();
        listeners.wake(&tickets);
    }
    Ok(())
}
