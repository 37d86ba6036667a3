//! Who waits for which ticket. A wake that comes before anybody listens is lost, so one listens
//! before the operation is applied.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::sync::oneshot;

/// All listeners of this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listeners(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// The number of the listener and the way to wake it, by ticket.
    by_ticket: HashMap<u64, (u64, oneshot::Sender<()>)>,
    next: u64,
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to listen. A ticket belongs to one exchange, so the last listener is the right one.
    pub(crate) fn listen(&self, ticket: u64) -> Listener {
        let (sender, woken) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.next += 1;
        let number = waiting.next;
        waiting.by_ticket.insert(ticket, (number, sender));
        Listener { ticket, number, woken, listeners: self.clone() }
    }

    /// Wakes those of the tickets that somebody here listens for.
    pub(crate) fn wake(&self, tickets: &[u64]) {
        if tickets.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        for (_, sender) in tickets.iter().filter_map(|ticket| waiting.by_ticket.remove(ticket)) {
            let _ = sender.send(());
        }
    }
}

/// Ends when its ticket is woken, or when a later listener has taken its place.
#[derive(Debug)]
pub struct Listener {
    ticket: u64,
    number: u64,
    woken: oneshot::Receiver<()>,
    listeners: Listeners,
}

impl Future for Listener {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.woken).poll(context).map(|_| ())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut waiting = self.listeners.lock();
        if waiting.by_ticket.get(&self.ticket).is_some_and(|(number, _)| *number == self.number) {
            waiting.by_ticket.remove(&self.ticket);
        }
    }
}
