//! What those of a worker's tasks that have much to move may move between two looks at its sockets: each has short
//! turns, but many of them one upon the other would be before everybody else.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::{BULK, Wakeup};

/// So many bytes all of them together,
const ALL: usize = BULK / 4;
/// and so many each, at least: if there are more than that is enough for, it takes several looks until each had its turn.
const LEAST: usize = 16 * 1024;
/// A link for what is large, to which many sessions look, does not stand in line.
const LINK: usize = 32 * 1024;

/// Shares it out among those that stand in line.
#[derive(Debug, Default)]
pub struct Allowance {
    line: RefCell<VecDeque<Waker>>,
    /// How many have left the line, and how many of them before the last look.
    left: Cell<u64>,
    before: Cell<u64>,
    /// Wakes who shares out.
    wakeup: Wakeup,
    /// Bytes for each of those who left it since.
    share: Cell<usize>,
}

impl Allowance {
    /// How many of so many bytes that wait the task of this wakeup may move in this turn. Who has few does not ask.
    #[inline(always)]
    pub fn of(&self, waiting: usize, wakeup: &Wakeup) -> usize {
        if waiting < BULK { usize::MAX } else { self.share(wakeup) }
    }

    /// How many bytes the task of this wakeup, which has much to move, may move in this turn.
    #[cold]
    pub fn share(&self, wakeup: &Wakeup) -> usize {
        let place = wakeup.place();
        if self.before.get() < place && place <= self.left.get() { self.share.get() } else { LEAST }
    }

    /// How many of so many bytes that wait a link for what is large may move in a turn.
    #[inline]
    pub(super) fn of_link(waiting: usize) -> usize {
        if waiting < BULK { usize::MAX } else { LINK }
    }

    /// Puts a task in line, unless it still stands at this place; its place.
    pub(super) fn stand_in_line(&self, place: u64, waker: &Waker) -> u64 {
        if place > self.left.get() {
            return place;
        }
        let mut line = self.line.borrow_mut();
        line.push_back(waker.clone());
        self.wakeup.wake();
        self.left.get() + line.len() as u64
    }

    /// Gives those in line their turns, a few after each look, for ever.
    pub async fn share_out(&self) {
        loop {
            let mut looks = false;
            poll_fn(|cx| {
                self.wakeup.begin(cx);
                if looks {
                    return Poll::Ready(());
                }
                if !self.line.borrow().is_empty() {
                    looks = true;
                    // Who comes into the line does not wake it before it has looked.
                    self.wakeup.go_on(cx);
                }
                Poll::Pending
            })
            .await;
            let mut line = self.line.borrow_mut();
            let share = (ALL / line.len().max(1)).max(LEAST);
            let count = line.len().min(ALL / share);
            self.share.set(share);
            self.before.set(self.left.get());
            self.left.set(self.left.get() + count as u64);
            line.drain(..count).for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    #[test]
    fn many_that_have_much_to_do_get_their_turns_in_order_and_few_of_them_after_each_look() {
        const TASKS: usize = 10;
        const TURNS: usize = 3;
        let allowance = Rc::new(Allowance::default());
        let looks = Rc::new(Cell::new(0u32));
        let turns = Rc::new(RefCell::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let sharing = allowance.clone();
            spawn_local(async move { sharing.share_out().await });
            let counting = looks.clone();
            spawn_local(async move {
                loop {
                    counting.set(counting.get() + 1);
                    yield_now().await;
                }
            });
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let (allowance, looks, turns) = (allowance.clone(), looks.clone(), turns.clone());
                    let (wakeup, mut left) = (Wakeup::default(), TURNS + 1);
                    spawn_local(poll_fn(move |cx| {
                        wakeup.begin(cx);
                        // The first turn was not one from the line.
                        if left <= TURNS {
                            turns.borrow_mut().push((looks.get(), task, allowance.share(&wakeup)));
                        }
                        left -= 1;
                        if left == 0 {
                            return Poll::Ready(());
                        }
                        wakeup.go_on_in_line(cx, &allowance);
                        Poll::Pending
                    }))
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        let turns = turns.borrow();
        let order: Vec<usize> = turns.iter().map(|(_, task, _)| *task).collect();
        assert_eq!(order, (0..TASKS).cycle().take(TASKS * TURNS).collect::<Vec<_>>());
        for of_one_look in turns.chunk_by(|(a, ..), (b, ..)| a == b) {
            let moved: usize = of_one_look.iter().map(|(.., share)| share).sum();
            assert!(moved <= ALL, "{turns:?}");
        }
    }

    #[test]
    fn a_task_that_ran_meanwhile_stands_in_line_once() {
        let (allowance, waker) = (Allowance::default(), Waker::noop());
        let place = allowance.stand_in_line(0, waker);
        assert_eq!(allowance.stand_in_line(place, waker), place);
        assert_eq!(allowance.line.borrow().len(), 1);
    }
}
