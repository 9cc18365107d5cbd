//! What the two processes of an upgrade say to each other, over a pair of Unix sockets of which the new process is given
//! one as its standard input: first the old one's letter with its listening sockets, then the new one's word, and at last
//! the old one's acknowledgement. Without that, the old one goes on, and what it has is its own.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream as AsyncStream;

use crate::config::Address;
use crate::control::upgrade::objects::Elder;
use crate::proxy::{Claim, Handed, KnownNames};

/// Tells a process that its standard input is such a socket. Set for it by the process that it replaces, and by nobody
/// else.
pub(crate) const VARIABLE: &str = "GRADUAL_HANDOVER";

/// Grows when an old and a new program would not understand each other.
const FORMAT: u32 = 1;
/// What acknowledges the new process's word.
const ACKNOWLEDGEMENT: u8 = b'+';
/// The longest letter, in bytes, and the longest word.
const LONGEST: usize = 1 << 20;
/// The most sockets that are taken over.
const MOST_SOCKETS: usize = 1 << 16;
/// How many bytes of a letter names may take: the system keeps some two hundred thousand for a reader.
const NAMES: usize = 64 << 10;
/// How many descriptors travel together; the system allows 253.
const TOGETHER: usize = 64;
/// How long the letter may take: it was sent before its reader was started.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the new process starts with.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    /// The process that this one replaces.
    pub(crate) from: u32,
    /// Upgrades so far, by result: the counters go on.
    pub(crate) upgrades: [u64; 3],
    /// The admin address.
    pub(crate) admin: Option<Handed>,
    /// The listeners.
    pub(crate) listeners: Vec<Handed>,
    /// The addresses of upstreams' names.
    pub(crate) names: KnownNames,
    /// Whether that process has objects.
    pub(crate) has_objects: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    format: u32,
    from: u32,
    upgrades: [u64; 3],
    admin: Option<Item>,
    listeners: Vec<Item>,
    /// [`KnownNames`]. A process of an earlier release sends none.
    #[serde(default)]
    names: Value,
    #[serde(default)]
    acknowledges: bool,
    /// Whether it understands [`Word::Objects`].
    #[serde(default)]
    objects: bool,
    #[serde(default)]
    has_objects: bool,
}

/// Sockets of one address, whose descriptors follow in the letter's order.
#[derive(Debug, Serialize, Deserialize)]
struct Item {
    named: Place,
    sockets: usize,
    removes_file: bool,
}

/// An address; a path need not be UTF-8.
#[derive(Debug, Serialize, Deserialize)]
enum Place {
    Tcp(SocketAddr),
    Unix(OsString),
}

/// What the new process says: how its start went, once; and before and after that, which objects it claims.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// Every shard accepts: the old process may stop.
    Serving,
    /// Why it could not start.
    Failed(String),
    /// Which version each object belongs to in its next generation. The old process answers with those that are live.
    Objects(Vec<Claim>),
}

/// The process that this one replaces.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
    /// Whether it says when it has left; one of an earlier release does not.
    acknowledges: bool,
    /// Whether it can be told which objects this process claims.
    objects: bool,
    has_objects: bool,
    pid: u32,
}

impl Item {
    fn of(handed: &Handed) -> Self {
        let named = match handed.named() {
            Address::Tcp(address) => Place::Tcp(*address),
            Address::Unix(path) => Place::Unix(path.clone().into()),
        };
        Self { named, sockets: handed.sockets().len(), removes_file: handed.removes_file() }
    }

    fn with(self, descriptors: &mut impl Iterator<Item = OwnedFd>) -> io::Result<Handed> {
        let named = match self.named {
            Place::Tcp(address) => Address::Tcp(address),
            Place::Unix(path) => Address::Unix(path.into()),
        };
        Handed::new(Some(named), descriptors.take(self.sockets).collect(), self.removes_file)
    }
}

/// Writes the letter. It waits for its reader, who need not have started.
///
/// # Errors
/// There is more to say than the system keeps for a reader.
pub(crate) fn send(stream: &UnixStream, inheritance: &Inheritance) -> io::Result<()> {
    let letter = Letter {
        format: FORMAT,
        from: inheritance.from,
        upgrades: inheritance.upgrades,
        admin: inheritance.admin.as_ref().map(Item::of),
        listeners: inheritance.listeners.iter().map(Item::of).collect(),
        names: serde_json::to_value(what_fits(&inheritance.names))?,
        acknowledges: true,
        objects: true,
        has_objects: inheritance.has_objects,
    };
    let text = serde_json::to_vec(&letter)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.set_nonblocking(true)?;
    (&*stream).write_all(&[&length.to_be_bytes(), &text[..]].concat())?;
    let all = inheritance.admin.iter().chain(&inheritance.listeners);
    let descriptors: Vec<_> = all.flat_map(Handed::sockets).map(AsFd::as_fd).collect();
    descriptors.chunks(TOGETHER).try_for_each(|some| send_descriptors(stream, some))
}

/// As many of the names as have room in a letter. The new process resolves the others itself.
fn what_fits(names: &KnownNames) -> KnownNames {
    let mut room = NAMES;
    let mut fits = |(name, addresses): &(&String, &Vec<IpAddr>)| {
        // An address in quotes, and a comma.
        let size = name.len() + 8 + addresses.len() * 50;
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    };
    let fitting: KnownNames = names
        .iter()
        .take_while(|name| fits(name))
        .map(|(name, addresses)| (name.clone(), addresses.clone()))
        .collect();
    if fitting.len() < names.len() {
        tracing::warn!("only {} of {} resolved names have room in the handover", fitting.len(), names.len());
    }
    fitting
}

/// What a letter says of names. They only save time: nonsense is no reason to stay out.
fn names(said: Value) -> KnownNames {
    match serde_json::from_value::<Option<KnownNames>>(said) {
        Ok(names) => names.unwrap_or_default(),
        Err(error) => {
            tracing::warn!("the addresses of names that were handed over are ignored: {error}");
            KnownNames::default()
        }
    }
}

/// Descriptors travel with a byte, so that there is something to receive.
fn send_descriptors(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors at a time"));
    }
    rustix::net::sendmsg(stream, &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes over what standard input holds, where `VARIABLE` says so. From then on, standard input is empty.
///
/// # Errors
/// Standard input is no such socket, or what it says is not understood.
pub(crate) fn receive() -> io::Result<(Predecessor, Inheritance)> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    read(stream)
}

fn read(mut stream: UnixStream) -> io::Result<(Predecessor, Inheritance)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST {
        return Err(invalid("the letter is too long"));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    let letter: Letter = serde_json::from_slice(&text)?;
    if letter.format != FORMAT {
        return Err(invalid("the running process hands over in another format: restart instead"));
    }
    let items = letter.admin.iter().chain(&letter.listeners);
    let count = items.fold(0_usize, |count, item| count.saturating_add(item.sockets));
    if count > MOST_SOCKETS {
        return Err(invalid("there are too many sockets"));
    }
    let mut descriptors = receive_descriptors(&stream, count)?.into_iter();
    let inheritance = Inheritance {
        from: letter.from,
        upgrades: letter.upgrades,
        admin: letter.admin.map(|item| item.with(&mut descriptors)).transpose()?,
        listeners: letter
            .listeners
            .into_iter()
            .map(|item| item.with(&mut descriptors))
            .collect::<Result<_, _>>()?,
        names: names(letter.names),
        has_objects: letter.has_objects,
    };
    let Letter { acknowledges, objects, has_objects, from: pid, .. } = letter;
    Ok((Predecessor { stream, acknowledges, objects, has_objects, pid }, inheritance))
}

fn receive_descriptors(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::with_capacity(count);
    while descriptors.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
        let before = descriptors.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                descriptors.extend(more);
            }
        }
        if received.bytes == 0 || descriptors.len() == before {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "sockets are missing"));
        }
    }
    Ok(descriptors)
}

impl Predecessor {
    /// Says how the start went. If nobody listens any more, there is nobody to be told.
    pub(crate) fn tell(&self, word: &Word) {
        let mut text = serde_json::to_vec(word).unwrap_or_default();
        text.push(b'\n');
        let _ = (&self.stream).write_all(&text);
    }

    /// Who can be told which objects this process claims.
    pub(crate) fn elder(&self) -> Elder {
        let stream = self.objects.then(|| self.stream.try_clone().ok()).flatten();
        stream.map(|stream| Elder::at(stream, self.pid, self.has_objects)).unwrap_or_default()
    }

    /// Waits until it has left, or gives the upgrade up, or ends (`false`). A process that does not say so has left when
    /// it has been told. One that goes on with what it says of objects leaves a stream of that. Not safe to cancel.
    pub(crate) async fn has_left(self) -> (bool, Option<AsyncStream>) {
        if !self.acknowledges {
            return (true, None);
        }
        let stream = self.stream.set_nonblocking(true).and_then(|()| AsyncStream::from_std(self.stream));
        let Ok(mut stream) = stream else { return (false, None) };
        let has_left = matches!(stream.read_u8().await, Ok(ACKNOWLEDGEMENT));
        (has_left, Some(stream).filter(|_| has_left && self.objects))
    }
}

/// Tells the new process that this one leaves; from then on it does. A process of an earlier release does not listen.
pub(crate) fn acknowledge(stream: &AsyncStream) {
    // Not by the runtime, which would first have to learn that there is room.
    let _ = rustix::net::send(stream, &[ACKNOWLEDGEMENT], SendFlags::NOSIGNAL);
}

/// Waits for the new process's word. Safe to cancel only together with the upgrade.
///
/// # Errors
/// It closes the connection without one, or says something else.
pub(crate) async fn word(stream: &mut AsyncStream) -> io::Result<Word> {
    let mut text = Vec::new();
    BufReader::new(stream.take(LONGEST as u64)).read_until(b'\n', &mut text).await?;
    if text.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn tcp(count: usize) -> Handed {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = (0..count).map(|_| first.try_clone().unwrap().into()).collect();
        Handed::new(Some(Address::Tcp("127.0.0.1:0".parse().unwrap())), sockets, true).unwrap()
    }

    #[test]
    fn sockets_arrive_with_their_names_however_many_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let admin = Handed::new(None, vec![unix.into()], false).unwrap();
        let sent = Inheritance {
            from: 7,
            upgrades: [2, 5, 1],
            admin: Some(admin),
            listeners: vec![tcp(150), tcp(1)],
            names: [("shop.example".to_owned(), vec![[127, 0, 0, 1].into()])].into(),
            has_objects: true,
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, &sent).unwrap();
        drop(ours);
        let (before, got) = read(theirs).unwrap();
        assert!(before.acknowledges && before.has_objects);
        assert_eq!((got.from, got.upgrades, &got.names), (7, [2, 5, 1], &sent.names));
        assert_eq!(got.admin.as_ref().map(Handed::actual), Some(&Address::Unix(path)));
        for (sent, got) in sent.listeners.iter().zip(&got.listeners) {
            assert_eq!((sent.named(), sent.actual()), (got.named(), got.actual()));
            assert_eq!((sent.sockets().len(), got.removes_file()), (got.sockets().len(), true));
        }
    }

    /// What is read of a letter that goes on so after its other fields.
    fn names_of(more: &str) -> KnownNames {
        let text = format!(r#"{{"format":1,"from":1,"upgrades":[0,0,0],"admin":null,"listeners":[]{more}}}"#);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
        ours.write_all(text.as_bytes()).unwrap();
        let (before, inheritance) = read(theirs).unwrap();
        assert!(!before.acknowledges);
        inheritance.names
    }

    #[test]
    fn a_letter_without_names_or_with_nonsense_is_one_with_none() {
        for more in
            ["", r#","names":null"#, r#","names":7"#, r#","names":{"a":["b"]}"#, r#","names":{"a":{}}"#]
        {
            assert_eq!(names_of(more), KnownNames::new(), "{more}");
        }
        assert_eq!(names_of(r#","names":{"a":["::1"]},"later":1"#).len(), 1);
    }

    #[test]
    fn more_names_than_have_room_do_not_keep_the_letter_back() {
        let name = |number| (format!("{number:0>200}.example"), vec![[127, 0, 0, 1].into(); 20]);
        let sent = Inheritance { names: (0..10_000).map(name).collect(), ..Inheritance::default() };
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, &sent).unwrap();
        let count = read(theirs).unwrap().1.names.len();
        assert!((20..1000).contains(&count), "{count}");
    }

    #[test]
    fn what_is_no_letter_is_refused() {
        let long = u32::MAX.to_be_bytes();
        let other = br#"{"format":2,"from":1,"upgrades":[0,0,0],"admin":null,"listeners":[]}"#;
        let missing = br#"{"format":1,"from":1,"upgrades":[0,0,0],"admin":null,"listeners":[{"named":{"Tcp":"127.0.0.1:80"},"sockets":1,"removes_file":true}]}"#;
        let framed = |text: &[u8]| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat();
        for bytes in
            [b"".to_vec(), b"\0\0".to_vec(), long.to_vec(), framed(b"{}"), framed(other), framed(missing)]
        {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(&bytes).unwrap();
            drop(ours);
            assert!(read(theirs).is_err(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    fn pair() -> (AsyncStream, Predecessor) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (
            AsyncStream::from_std(ours).unwrap(),
            Predecessor { stream: theirs, acknowledges: true, objects: false, has_objects: false, pid: 1 },
        )
    }

    #[tokio::test]
    async fn the_word_arrives_whole_or_not_at_all() {
        for expected in [Word::Serving, Word::Failed("a\nb".to_owned())] {
            let (mut ours, theirs) = pair();
            theirs.tell(&expected);
            assert_eq!(word(&mut ours).await.unwrap(), expected);
        }
        let (mut ours, theirs) = pair();
        drop(theirs);
        assert_eq!(word(&mut ours).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn the_old_process_has_left_when_it_says_so_or_would_never_say() {
        let (ours, theirs) = pair();
        acknowledge(&ours);
        assert!(theirs.has_left().await.0);
        let (ours, theirs) = pair();
        drop(ours);
        assert!(!theirs.has_left().await.0);
        let (_ours, theirs) = pair();
        assert!(Predecessor { acknowledges: false, ..theirs }.has_left().await.0);
    }
}
