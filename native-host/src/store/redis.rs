//! A Redis or Valkey server that several hosts share.
//!
//! An operation reads the key, is reduced here, and is written only if the key has not changed
//! since (compare-and-set in a script, which the server runs alone); otherwise it is reduced
//! again on what is there now. The tasks of one host do not compete: they stand in line at a key
//! ([`Lines`]). The script also tells all hosts which tickets to wake. A
//! connection that broke is made again in the background; until then operations fail at once,
//! and the policy says what that means.

use std::{cell::RefCell, sync::Arc, thread, time::Duration};

use futures_util::StreamExt as _;
use minigate_core::state::{Op, Outcome};
use redis::{
    Client, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::sync::OnceCell;

use super::{Clock, Listeners, failed, lines::Lines, reduce};
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

/// `KEYS[1]`; then the old value or an empty string, the new one or an empty string for none,
/// the time to live, the channel, and the tickets. Gives nothing when it was written, else what
/// is there now.
const COMPARE_AND_SET: &str = r"
local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return now end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
if ARGV[5] then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
return nil";

/// A handle to the server; each thread makes its own connection.
#[derive(Clone)]
pub(super) struct Redis {
    client: Client,
    connection: Arc<OnceCell<ConnectionManager>>,
    script: Arc<Script>,
    lines: Lines,
    clock: Clock,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redis")
    }
}

impl Redis {
    /// Reads the URL, and begins to listen for tickets.
    pub(super) fn open(url: &str, listeners: Listeners, clock: Clock) -> Result<Self, String> {
        // The error could show the password.
        let client = Client::open(url).map_err(|_| {
            "STORE_URL: not a valid URL; for example redis://:password@127.0.0.1:6379/0".to_owned()
        })?;
        let subscribing = client.clone();
        thread::Builder::new()
            .name("wakes".into())
            .spawn(move || match server::runtime() {
                Ok(runtime) => runtime.block_on(subscribe(&subscribing, &listeners)),
                Err(problem) => failed(&problem),
            })
            .map_err(|error| format!("STORE_URL: {error}"))?;
        let script = Arc::new(Script::new(COMPARE_AND_SET));
        Ok(Self { client, connection: Arc::default(), script, lines: Lines::default(), clock })
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
            let mut call = self.script.key(&key);
            call.arg(old.as_slice()).arg(reduced.new.as_slice()).arg(reduced.ttl_ms.max(1)).arg(CHANNEL);
            if !reduced.wake.is_empty() {
                let tickets: Vec<String> = reduced.wake.iter().map(u64::to_string).collect();
                call.arg(tickets.join(" "));
            }
            let there: Option<Vec<u8>> = call.invoke_async(&mut connection).await?;
            match there {
                None => return Ok(Some(reduced.outcome)),
                Some(now) => old = now,
            }
        }
        failed("too many hosts at one key");
        Ok(None)
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
