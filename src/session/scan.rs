//! SCAN: a page of the keys of one range of slots, as their owner has them.
//!
//! What makes a scan whole: a range is done only when its owner itself says, after the last page, that it owns those
//! slots and has the config epoch that it had at the first. A slot that had left it and come back would have raised
//! that epoch. What its owner says is being moved is scanned by itself, at the source and then at the target.

use std::rc::Rc;

use bytes::Bytes;

use super::survey::{Survey, Trouble};
use crate::backend::{Link, Node};
use crate::error::ErrorKind;
use crate::protocol::{Args, RequestFramer, RequestLimits, write};
use crate::route::scan::{Cursor, Found, Table, parse, stamp, target};
use crate::topology::view::{self, ViewNode};
use crate::topology::{Cause, SLOTS};

const INVALID: &[u8] = b"-ERR invalid cursor\r\n";
const UNEXPECTED: &[u8] = b"-ERR the node's reply to SCAN is none\r\n";
/// A range that has to be scanned anew is scanned in larger pages, so that it is done before that happens again.
const ANEW: usize = 1000;
/// So many more keys the second question for one page asks for, and each further one for twice as many,
const MORE: usize = 16;
/// up to this.
const MOST: usize = 100_000;

/// How a node is asked about a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Owner = 0,
    Source = 1,
    Target = 2,
}

/// Where a range is.
struct Range {
    node: Rc<Node>,
    epoch: u64,
    end: u16,
    is_open: bool,
}

/// What was found of a node, and the slot and position to go on from; none if that was all.
type Page = (Found, Option<(u16, u16)>);

impl Survey {
    /// Carries out SCAN.
    pub(super) async fn scan(&self) -> Bytes {
        let mut framer = RequestFramer::default();
        let Ok(Some(_)) = framer.next(&self.request, &RequestLimits::NONE) else {
            return self.invalid();
        };
        let args = framer.args(&self.request);
        let Some(number) = parse(args.get(1)) else { return self.invalid() };
        let (mut at, mut sure) = (Cursor::decode(number), true);
        loop {
            let trouble = match self.page(at, &args, sure).await {
                Ok(reply) => return reply.into(),
                Err(trouble) => trouble,
            };
            if matches!(trouble, Trouble::Stale) {
                (at, sure) = (Cursor::before(at.slot), false);
            }
            if let Err(reply) = self.bear(trouble).await {
                return reply;
            }
        }
    }

    fn invalid(&self) -> Bytes {
        self.count(ErrorKind::BadArgument);
        Bytes::from_static(INVALID)
    }

    /// The next page. The node is asked first whether it owns the slot, unless that is `sure` enough for now.
    async fn page(&self, at: Cursor, args: &Args<'_>, sure: bool) -> Result<Vec<u8>, Trouble> {
        let Range { node, epoch, end, is_open } = self.range(at.slot)?;
        let link = self.link(&node).await?;
        if is_open && let Some(target) = self.target(&link, at.slot).await? {
            return self.open_page(at, args, &link, &target, epoch).await;
        }
        if !sure && self.done(&link, epoch, at.slot, at.slot).await?.is_none() {
            return Err(self.stale(&link));
        }
        let check = stamp_of(&link, epoch, Role::Owner);
        let is_on = at.check == check && at.end >= at.slot;
        let from = if is_on { at } else { Cursor { end, check, ..Cursor::before(at.slot) } };
        let end = from.end.min(end);
        let is_anew = !is_on && at.position > 0;
        let (found, next) = self.keys(&link, Cursor { end, ..from }, args, is_anew).await?;
        // Of the slots that the cursor leaves behind nothing is known any more once the client has it.
        let last = match next {
            Some((slot, position)) if slot == at.slot => {
                return Ok(found.reply(Some(Cursor { slot, end, position, check })));
            }
            Some((slot, _)) => slot - 1,
            None => end,
        };
        match (self.done(&link, epoch, at.slot, last).await?, next) {
            (Some(done), Some((slot, position))) if done == last => {
                Ok(found.reply(Some(Cursor { slot, end, position, check })))
            }
            (Some(done), _) => Ok(found.reply(Cursor::behind(done))),
            (None, _) => Err(self.stale(&link)),
        }
    }

    /// A node says something else than the table.
    fn stale(&self, node: &Rc<Link>) -> Trouble {
        self.worker().routes.borrow().refresh(Cause::Redirect, Some(node.addr()));
        Trouble::Stale
    }

    /// A page of a slot that is being moved: of the source, until that is done, then of the target.
    async fn open_page(
        &self,
        at: Cursor,
        args: &Args<'_>,
        source: &Rc<Link>,
        target: &Rc<Link>,
        epoch: u64,
    ) -> Result<Vec<u8>, Trouble> {
        let slot = at.slot;
        let (at_source, at_target) =
            (stamp_of(source, epoch, Role::Source), stamp_of(target, epoch, Role::Target));
        let is_target = at.check == at_target;
        let (link, check) = if is_target { (target, at_target) } else { (source, at_source) };
        let position = if at.check == check { at.position } else { 0 };
        let from = Cursor { slot, end: slot, position, check };
        let (found, next) = self.keys(link, from, args, false).await?;
        Ok(found.reply(match next {
            Some((_, position)) => Some(Cursor { position, ..from }),
            None if is_target => Cursor::behind(slot),
            None => Some(Cursor { position: 0, check: at_target, ..from }),
        }))
    }

    /// The slots from `slot` on that have one owner and are not being moved, as far as is known.
    fn range(&self, slot: u16) -> Result<Range, Trouble> {
        let routes = self.worker().routes.borrow();
        let Some(node) = routes.owner(slot).cloned() else { return Err(Trouble::Uncovered(slot)) };
        let epoch = routes.shard_at(node.addr()).map_or(0, |shard| shard.epoch);
        let is_open = routes.is_open(slot);
        let goes_on = |next: &u16| {
            routes.owner(*next).is_some_and(|owner| Rc::ptr_eq(owner, &node)) && !routes.is_open(*next)
        };
        let behind = (slot + 1..SLOTS as u16).take_while(|next| !is_open && goes_on(next)).last();
        Ok(Range { node, epoch, end: behind.unwrap_or(slot), is_open })
    }

    /// Keys of the slots `from.slot..=from.end`, from that position on: at least so many buckets of the node's table
    /// that the position is another one, however little the client asks for.
    async fn keys(
        &self,
        link: &Rc<Link>,
        from: Cursor,
        args: &Args<'_>,
        is_anew: bool,
    ) -> Result<Page, Trouble> {
        let by_slot = link.server().is_some_and(|server| server.scans_by_slot);
        let table = if by_slot { Table::BySlot } else { Table::Whole };
        let (mut found, mut cursor) = (Found::default(), table.cursor(from.slot, from.position));
        let mut count = if is_anew { Some(ANEW) } else { None };
        loop {
            let request = request(cursor, args, count);
            let reply = self.ask(link, request).await?;
            if reply.first() == Some(&b'-') {
                return Err(Trouble::Final(reply));
            }
            let next = found.add(&reply, from.slot, from.end);
            let Some(next) = next else { return Err(Trouble::Final(Bytes::from_static(UNEXPECTED))) };
            let place = table.place(next, from.slot);
            if next == 0 || place.0 > from.end {
                return Ok((found, None));
            }
            if place > (from.slot, from.position) {
                return Ok((found, Some(place)));
            }
            cursor = next;
            count = Some(count.map_or(MORE, |count| (2 * count).min(MOST)));
        }
    }

    /// What the node says of the cluster: the text, and itself.
    async fn view(&self, link: &Rc<Link>) -> Result<(String, Vec<ViewNode>), Trouble> {
        let mut request = Vec::new();
        write::request(&mut request, [&b"CLUSTER"[..], b"NODES"].into_iter());
        let reply = self.ask(link, request.into()).await?;
        if reply.first() == Some(&b'-') {
            return Err(Trouble::Final(reply));
        }
        let text = String::from_utf8_lossy(&reply);
        let text = text.split_once("\r\n").map_or("", |(_, text)| text).trim_start_matches("txt:").to_owned();
        let nodes =
            view::parse(text.trim_end_matches("\r\n"), link.addr(), &self.worker().config.address_map);
        Ok((text, nodes.map_err(|_| Trouble::Stale)?))
    }

    /// The link to the node to which the owner of a slot moves it, if it does.
    async fn target(&self, owner: &Rc<Link>, slot: u16) -> Result<Option<Rc<Link>>, Trouble> {
        let (text, nodes) = self.view(owner).await?;
        let Some(id) = target(&text, slot) else { return Ok(None) };
        let addr = nodes.iter().find(|node| &*node.id == id).map(|node| node.addr.clone());
        let node = addr.and_then(|addr| self.worker().routes.borrow_mut().node(&addr));
        match node {
            Some(node) => Ok(Some(self.link(&node).await?)),
            None => Err(self.stale(owner)),
        }
    }

    /// The last slot up to which the range is done, if its first one is: the owner has owned it all the time.
    async fn done(&self, owner: &Rc<Link>, epoch: u64, slot: u16, end: u16) -> Result<Option<u16>, Trouble> {
        let (_, nodes) = self.view(owner).await?;
        let Some(own) = nodes.iter().find(|node| node.myself) else { return Ok(None) };
        if !own.primary || own.epoch != epoch {
            return Ok(None);
        }
        let owns = |slot: &u16| own.slots.iter().any(|(first, last)| (first..=last).contains(&slot));
        if owns(&slot) && own.open.contains(&slot) {
            self.worker().routes.borrow_mut().opened(slot);
        }
        Ok((slot..=end).take_while(|slot| owns(slot) && !own.open.contains(slot)).last())
    }
}

fn stamp_of(link: &Link, epoch: u64, role: Role) -> u16 {
    stamp(link.server().map_or("", |server| &server.run_id), epoch, role as u8)
}

/// The client's request with another cursor, and perhaps another count, which counts because it comes last.
fn request(cursor: u64, args: &Args<'_>, count: Option<usize>) -> Bytes {
    let (cursor, count) = (cursor.to_string(), count.map(|count| count.to_string()));
    let mut words = vec![args.get(0), cursor.as_bytes()];
    words.extend(args.iter().skip(2));
    if let Some(count) = &count {
        words.extend([&b"COUNT"[..], count.as_bytes()]);
    }
    let mut request = Vec::new();
    write::request(&mut request, words.into_iter());
    request.into()
}
