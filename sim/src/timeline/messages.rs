//! Messages, put together from the bytes that were sent and the counts of those that arrived.
//!
//! A connection carries bytes in order, so the n-th frame that was sent one way has arrived when as many bytes have
//! been read as lie before its end.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use quorate_core::wire::{FRAME_BYTES_MAX, Frame, FrameKind, decode_frame};

use super::wire::{Kind, Names, Said, describe};
use crate::trace::Recorded;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrived.
    Arrived,
    /// It arrived, and took long, or a link on its way was closed meanwhile.
    Late,
    /// Its connection was reset.
    Reset,
    /// The process that was to read it, or the one that sent it, ended.
    Died,
    /// It was still under way when the run ended.
    UnderWay,
}

impl Fate {
    /// For the page.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Late => "late",
            Self::Reset => "reset",
            Self::Died => "died",
            Self::UnderWay => "under way",
        }
    }
}

/// One frame from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) from: u32,
    pub(super) to: u32,
    /// When its last byte was handed to the network, nanoseconds.
    pub(super) sent: u64,
    /// When it had arrived, or when it was certain that it would not, nanoseconds.
    pub(super) ended: u64,
    pub(super) fate: Fate,
    pub(super) bytes: u64,
    pub(super) said: Said,
}

/// What arrives later than this, nanoseconds, is called late.
const LATE: u64 = 50_000_000;

/// The frames one way over one connection.
#[derive(Default)]
struct Stream {
    unread: BytesMut,
    /// Bytes of all whole frames so far.
    framed: u64,
    delivered: u64,
    /// Indexes of messages, and how many bytes must have arrived.
    waiting: VecDeque<(usize, u64)>,
    /// It carries something that is no frame: nothing after that can be told apart.
    garbled: bool,
}

/// A connection's number, and whether it is the direction of the side that dialled.
type Direction = (u64, bool);

/// Whether a link from one node to another was closed at some time between two.
pub(super) type Closed<'a> = dyn Fn(u32, u32, u64, u64) -> bool + 'a;

#[derive(Default)]
struct Assembly {
    streams: BTreeMap<Direction, Stream>,
    /// Connection, direction and stream id → for each append that is not answered, whether it was a heartbeat.
    appends: BTreeMap<(u64, bool, u64), VecDeque<bool>>,
    /// The label of each connection's dialling direction.
    dialled: BTreeMap<u64, String>,
    messages: Vec<Message>,
    /// When connections broke.
    resets: BTreeMap<u64, Vec<u64>>,
    /// When processes ended, by node.
    ends: BTreeMap<u32, Vec<u64>>,
    /// The connection of each message.
    connections: Vec<u64>,
}

/// All messages, in the order in which they were sent. `recorded` is in the order of time.
pub(super) fn assemble(recorded: &[Recorded], names: &Names, end: u64, closed: &Closed<'_>) -> Vec<Message> {
    let mut assembly = Assembly::default();
    for event in recorded {
        match event.kind {
            "net send" => assembly.sent(event, names),
            "net deliver" => assembly.delivered(event),
            "net reset" | "net bounce" => assembly.resets.entry(event.numbers[0]).or_default().push(event.at),
            "net kill" => assembly.ends.entry(event.node).or_default().push(event.at),
            _ => {}
        }
    }
    assembly.finish(end, closed)
}

/// `n1>n2`
fn ends_of(label: &str) -> Option<(u32, u32)> {
    let (from, to) = label.split_once('>')?;
    Some((from.strip_prefix('n')?.parse().ok()?, to.strip_prefix('n')?.parse().ok()?))
}

impl Assembly {
    fn sent(&mut self, event: &Recorded, names: &Names) {
        let Some((from, to)) = ends_of(&event.subject) else { return };
        let [connection, side] = event.numbers;
        let dials = side == 0;
        let dialled = if dials { event.subject.clone() } else { format!("n{to}>n{from}") };
        self.dialled.entry(connection).or_insert(dialled);
        let stream = self.streams.entry((connection, dials)).or_default();
        stream.unread.extend_from_slice(&event.payload);
        let frames: Vec<_> = std::iter::from_fn(|| stream.next()).collect();
        for (frame, bytes, upto) in frames {
            let said = match frame {
                Some(frame) => self.say((connection, dials), &frame, names),
                None => Said { kind: Kind::Control, text: format!("{bytes} B that are no frame") },
            };
            let stream = self.streams.entry((connection, dials)).or_default();
            stream.waiting.push_back((self.messages.len(), upto));
            let (sent, ended, fate) = (event.at, event.at, Fate::UnderWay);
            self.messages.push(Message { from, to, sent, ended, fate, bytes, said });
            self.connections.push(connection);
        }
    }

    /// Answers on a stream come in the order of its requests, so it is known which of them answer heartbeats.
    fn say(&mut self, (connection, dials): Direction, frame: &Frame, names: &Names) -> Said {
        let is_append = frame.what == 0;
        if frame.kind == FrameKind::StreamReply && is_append {
            let asked = self.appends.get_mut(&(connection, !dials, frame.id)).and_then(VecDeque::pop_front);
            return describe(frame, names, asked.unwrap_or(false));
        }
        let said = describe(frame, names, false);
        if frame.kind == FrameKind::StreamItem && is_append {
            let asked = self.appends.entry((connection, dials, frame.id)).or_default();
            asked.push_back(said.kind == Kind::Heartbeat);
        }
        said
    }

    fn delivered(&mut self, event: &Recorded) {
        let [connection, bytes] = event.numbers;
        let dials = self.dialled.get(&connection).is_none_or(|dialled| *dialled == event.subject);
        let Some(stream) = self.streams.get_mut(&(connection, dials)) else { return };
        stream.delivered += bytes;
        while let Some((index, _)) = stream.waiting.pop_front_if(|(_, upto)| *upto <= stream.delivered) {
            let message = &mut self.messages[index];
            (message.ended, message.fate) = (event.at, Fate::Arrived);
        }
    }

    fn finish(mut self, end: u64, closed: &Closed<'_>) -> Vec<Message> {
        for (message, connection) in self.messages.iter_mut().zip(&self.connections) {
            let Message { from, to, sent, ended, .. } = *message;
            if message.fate == Fate::Arrived {
                if ended - sent > LATE || closed(from, to, sent, ended) {
                    message.fate = Fate::Late;
                }
                continue;
            }
            let first = |times: Option<&Vec<u64>>| times.into_iter().flatten().copied().find(|at| *at >= sent);
            let reset = first(self.resets.get(connection)).map(|at| (at, Fate::Reset));
            let died = [to, from].map(|node| first(self.ends.get(&node)).map(|at| (at, Fate::Died)));
            let fates = reset.into_iter().chain(died.into_iter().flatten());
            (message.ended, message.fate) = fates.min_by_key(|(at, _)| *at).unwrap_or((end.max(sent), Fate::UnderWay));
        }
        self.messages
    }
}

impl Stream {
    /// The next whole frame, its length, and how many bytes end with it; bytes that are none are taken whole.
    fn next(&mut self) -> Option<(Option<Frame>, u64, u64)> {
        let before = self.unread.len();
        let frame = match self.garbled {
            true => None,
            false => decode_frame(&mut self.unread, FRAME_BYTES_MAX).unwrap_or_else(|_| {
                self.garbled = true;
                None
            }),
        };
        if self.garbled {
            self.unread.clear();
        }
        let bytes = (before - self.unread.len()) as u64;
        self.framed += bytes;
        (bytes > 0).then_some((frame, bytes, self.framed))
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::wire::encode_frame;

    use super::*;

    fn event(at: u64, node: u32, kind: &'static str, subject: &str, numbers: [u64; 2], payload: Vec<u8>) -> Recorded {
        Recorded { at, node, kind, subject: subject.to_owned(), numbers, payload }
    }

    fn frame() -> Vec<u8> {
        encode_frame(FrameKind::Ping, 0, 0, vec![]).unwrap().concat()
    }

    fn fates(recorded: &[Recorded], closed: &Closed<'_>) -> Vec<(u64, u64, Fate)> {
        let messages = assemble(recorded, &Names::new(), 1_000, closed);
        messages.iter().map(|message| (message.sent, message.ended, message.fate)).collect()
    }

    #[test]
    fn a_frame_arrives_with_its_last_byte() {
        let len = frame().len() as u64;
        let two = [frame(), frame()].concat();
        let recorded = [
            event(10, 1, "net send", "n1>n2", [4, 0], two[..25].to_vec()),
            event(11, 1, "net send", "n1>n2", [4, 0], two[25..].to_vec()),
            event(12, 2, "net send", "n2>n1", [4, 1], frame()),
            event(20, 2, "net deliver", "n1>n2", [4, len - 1], vec![]),
            event(30, 2, "net deliver", "n1>n2", [4, 1], vec![]),
            event(40, 1, "net deliver", "n2>n1", [4, len], vec![]),
        ];
        let open = |_, _, _, _| false;
        assert_eq!(
            fates(&recorded, &open),
            [(10, 30, Fate::Arrived), (11, 1_000, Fate::UnderWay), (12, 40, Fate::Arrived)]
        );
        let closed = |from, _, _, _| from == 2;
        assert_eq!(fates(&recorded, &closed)[2], (12, 40, Fate::Late));
    }

    #[test]
    fn what_does_not_arrive_has_a_reason() {
        let send = |at, connection| event(at, 1, "net send", "n1>n2", [connection, 0], frame());
        let open = |_, _, _, _| false;
        let reset = [send(10, 4), send(10, 5), event(15, 2, "net reset", "", [4, 16], vec![])];
        assert_eq!(fates(&reset, &open), [(10, 15, Fate::Reset), (10, 1_000, Fate::UnderWay)]);
        let killed =
            [event(5, 2, "net kill", "", [1, 0], vec![]), send(10, 4), event(20, 2, "net kill", "", [2, 0], vec![])];
        assert_eq!(fates(&killed, &open), [(10, 20, Fate::Died)]);
    }

    #[test]
    fn bytes_that_are_no_frame_are_shown_as_bytes() {
        let recorded = [
            event(10, 1, "net send", "n1>n2", [4, 0], vec![1; 30]),
            event(11, 1, "net send", "n1>n2", [4, 0], vec![1; 5]),
            event(20, 2, "net deliver", "n1>n2", [4, 35], vec![]),
        ];
        let messages = assemble(&recorded, &Names::new(), 1_000, &|_, _, _, _| false);
        let texts: Vec<_> = messages.iter().map(|message| (message.said.text.as_str(), message.fate)).collect();
        assert_eq!(texts, [("30 B that are no frame", Fate::Arrived), ("5 B that are no frame", Fate::Arrived)]);
    }
}
