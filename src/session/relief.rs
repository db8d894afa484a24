//! Who goes when the process exceeds `max_memory`: who has the largest unread output, of all workers.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Order, Session, Worker};
use crate::backend::{Link, Victim};
use crate::metrics::{Closed, Reached};

/// For so long the workers tell each other what they have, and who was told to go goes.
const PAUSE: Duration = Duration::from_millis(2);

/// The largest of what one worker keeps of a cluster's.
#[derive(Default)]
struct Largest {
    output: usize,
    /// Whose output it is, unless it is a reply that `link` has not read to its end.
    reader: Option<Rc<Session>>,
    link: Option<Rc<Link>>,
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
                        None => self.close(largest.reader.as_deref()),
                    },
                    Victim::Input => self.close(largest.writer.as_deref()),
                }
            }
        }
    }

    fn close(&self, session: Option<&Session>) {
        // Who has been told to go still counts until it has gone, so that nobody goes in its place.
        if let Some(session) = session
            && !matches!(session.order.get(), Order::Close(_))
        {
            self.backend.metrics.reached[Reached::MaxMemory.index()].add(1);
            session.order(Order::Close(Closed::MaxMemory));
        }
    }

    fn largest(&self) -> Largest {
        let mut largest = Largest::default();
        self.each_session(|session| {
            let state = session.state.borrow();
            if state.unread() > largest.output {
                (largest.output, largest.reader) = (state.unread(), Some(session.clone()));
            }
            if state.kept_told.input > largest.input {
                (largest.input, largest.writer) = (state.kept_told.input, Some(session.clone()));
            }
        });
        for link in self.backend.all_links() {
            if link.reading() > largest.output {
                (largest.output, largest.link) = (link.reading(), Some(link));
            }
        }
        largest
    }
}
