//! Who goes when the process exceeds `max_memory`: who has the largest unread output, of all workers.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Order, Session, Worker};
use crate::backend::{Link, Victim, WORTHWHILE};
use crate::metrics::{Closed, Reached};

/// For so long the workers tell each other what they have, and who was told to go goes.
const PAUSE: Duration = Duration::from_millis(2);

/// The largest of what one worker keeps of a cluster's.
#[derive(Default)]
struct Largest {
    output: usize,
    /// Whose it is if it is no client's output, but a reply that has not been read to its end.
    link: Option<Rc<Link>>,
    /// With what it is subscribed to.
    input: usize,
    writer: Option<Rc<Session>>,
}

impl Worker {
    /// Closes whoever has most for as long as the process keeps too much; for ever.
    pub async fn relieve(self: Rc<Self>) {
        let memory = &self.backend.memory;
        loop {
            memory.called().await;
            while memory.is_over() {
                let largest = self.largest();
                memory.publish(largest.output, largest.input);
                drop(largest);
                sleep(PAUSE).await;
                if !memory.is_over() {
                    break;
                }
                let largest = self.largest();
                match memory.victim() {
                    Victim::Nobody => break,
                    Victim::Elsewhere => {}
                    Victim::Output => match &largest.link {
                        Some(link) => link.drop_reply(),
                        None => self.close_readers(memory.excess(), largest.output),
                    },
                    Victim::Input => _ = largest.writer.as_deref().map(|writer| self.close(writer)),
                }
            }
            memory.go_on();
            self.backend.all_links().iter().for_each(|link| link.resume());
        }
    }

    /// Closes as many as make up for `excess`, from the one with the `largest` output on. One at a time would take as
    /// many pauses, in each of which more comes in. Who has less than half of what another one has is left alone.
    fn close_readers(&self, excess: usize, largest: usize) {
        let mut readers = Vec::new();
        let least = WORTHWHILE as usize;
        let least = least.max(largest / 2).max(self.backend.memory.largest_elsewhere() / 2);
        self.each_session(|session| {
            let size = session.state.borrow().freed();
            if size >= least {
                readers.push((size, session.clone()));
            }
        });
        readers.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size));
        let mut freed = 0;
        for (size, session) in readers {
            self.close(&session);
            freed += size;
            if freed >= excess {
                break;
            }
        }
    }

    fn close(&self, session: &Session) {
        // Who has been told to go still counts until it has gone, so that nobody goes in its place.
        if !matches!(session.order.get(), Order::Close(_)) {
            self.backend.metrics.reached[Reached::MaxMemory.index()].add(1);
            session.order(Order::Close(Closed::MaxMemory));
        }
    }

    fn largest(&self) -> Largest {
        let mut largest = Largest::default();
        self.each_session(|session| {
            let state = session.state.borrow();
            largest.output = largest.output.max(state.freed());
            let input = state.kept_told.input + state.kept_told.topics;
            if input > largest.input {
                (largest.input, largest.writer) = (input, Some(session.clone()));
            }
        });
        for link in self.backend.all_links() {
            // Many clients have commands on it, and writes are in doubt when it ends.
            if link.reading() / 2 > largest.output
                || largest.link.is_some() && link.reading() > largest.output
            {
                (largest.output, largest.link) = (link.reading(), Some(link));
            }
        }
        largest
    }
}
