//! Who goes when the process exceeds `max_memory`: who has the largest unread output, of all workers; where inputs fill the
//! memory, who has the largest of them, and before all others who has commands that cannot be sent: the shard that they
//! are for does not keep up, and the clients of others are not to suffer for it.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Order, Session, Worker};
use crate::backend::{Link, Victim, WORTHWHILE, WORTHWHILE_INPUT};
use crate::metrics::{Closed, Reached};

/// For so long the workers tell each other what they have, and who was told to go goes.
const PAUSE: Duration = Duration::from_millis(2);

/// Added to the size of an input with commands that cannot be sent.
const STUCK: usize = 1 << (usize::BITS - 1);

/// The largest of what one worker keeps of a cluster's.
#[derive(Default)]
struct Largest {
    output: usize,
    /// Whose it is if it is no client's output, but a reply that has not been read to its end.
    link: Option<Rc<Link>>,
    /// With what it is subscribed to.
    input: usize,
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
                let (largest, elsewhere) = (self.largest(), memory.largest_elsewhere());
                match memory.victim() {
                    Victim::Nobody => break,
                    Victim::Elsewhere => {}
                    Victim::Output => match &largest.link {
                        Some(link) => link.drop_reply(),
                        None => self.close_largest(largest.output.max(elsewhere.0), WORTHWHILE, output_of),
                    },
                    Victim::Input => {
                        self.close_largest(largest.input.max(elsewhere.1), WORTHWHILE_INPUT, input_of);
                    }
                }
            }
            memory.go_on();
            self.backend.all_links().iter().for_each(|link| link.resume());
        }
    }

    /// Closes as many as make up for the excess, from who has most on. One at a time would take as many pauses, in each of
    /// which more comes in. Who has less than half of the `largest` of all places is left alone.
    fn close_largest(&self, largest: usize, worthwhile: u64, size: fn(&Session) -> usize) {
        let (mut sessions, mut freed) = (Vec::new(), 0);
        let (rank, largest) = (largest & STUCK, largest & !STUCK);
        let least = rank + (largest / 2).max(worthwhile as usize);
        let excess = self.backend.memory.excess();
        self.each_session(|session| {
            let size = size(session);
            if size >= least {
                sessions.push((size, session.clone()));
            }
        });
        sessions.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size));
        for (size, session) in sessions {
            self.close(&session);
            freed += size & !STUCK;
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
            largest.output = largest.output.max(output_of(session));
            largest.input = largest.input.max(input_of(session));
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

/// Bytes that go with the client's unread replies.
fn output_of(session: &Session) -> usize {
    session.state.borrow().freed()
}

/// Bytes that it sent and that are not planned yet or cannot be sent, and what it is subscribed to.
fn input_of(session: &Session) -> usize {
    let state = session.state.borrow();
    let (kept, (_, held)) = (state.kept_told, state.held());
    let size = kept.input + kept.topics + held;
    if held > 0 && size as u64 >= WORTHWHILE_INPUT { size + STUCK } else { size }
}
