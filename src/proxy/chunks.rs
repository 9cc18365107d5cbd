//! The lines between chunks, read more strictly than the codec does: RFC 9112 section 7.1, without what two readers could
//! read differently.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How far a chunked body has come. Its bytes are counted here, and read by the codec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    phase: Phase,
    /// Digits of the size so far.
    digits: u8,
    /// The size as far as it was read, and then what is left of the chunk.
    left: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// No chunked body is under way.
    #[default]
    None,
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Where a trailer line, or the end, begins.
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
}

/// All phases, by their number.
const PHASES: [Phase; 11] = [
    Phase::None,
    Phase::Size,
    Phase::Extension,
    Phase::SizeLf,
    Phase::Data,
    Phase::DataCr,
    Phase::DataLf,
    Phase::TrailerStart,
    Phase::Trailer,
    Phase::TrailerLf,
    Phase::LastLf,
];

/// The most digits of a size: those of 64 bits. More could only be zeros.
const MAX_DIGITS: u8 = 16;

/// A line that is not as RFC 9112 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Chunks {
    /// The beginning of a chunked body.
    pub(super) const BEGIN: Self = Self { phase: Phase::Size, digits: 0, left: 0 };

    /// Reads on; what comes behind the body's end is not looked at.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.phase == Phase::Data {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= count as u64;
                bytes = &bytes[count..];
                if self.left == 0 {
                    self.phase = Phase::DataCr;
                }
                continue;
            }
            if self.phase == Phase::None {
                break;
            }
            self.phase = self.next(byte).ok_or(Malformed)?;
            bytes = rest;
        }
        Ok(())
    }

    fn next(&mut self, byte: u8) -> Option<Phase> {
        let text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        match (self.phase, byte) {
            (Phase::Size, _) => self.size(byte),
            (Phase::Extension, b'\r') => Some(Phase::SizeLf),
            (Phase::Extension, _) => text.then_some(Phase::Extension),
            (Phase::SizeLf, b'\n') if self.left == 0 => Some(Phase::TrailerStart),
            (Phase::SizeLf, b'\n') => Some(Phase::Data),
            (Phase::DataCr, b'\r') => Some(Phase::DataLf),
            (Phase::DataLf, b'\n') => {
                *self = Self::BEGIN;
                Some(Phase::Size)
            }
            (Phase::TrailerStart, b'\r') => Some(Phase::LastLf),
            (Phase::Trailer, b'\r') => Some(Phase::TrailerLf),
            (Phase::TrailerStart | Phase::Trailer, _) => text.then_some(Phase::Trailer),
            (Phase::TrailerLf, b'\n') => Some(Phase::TrailerStart),
            (Phase::LastLf, b'\n') => Some(Phase::None),
            _ => None,
        }
    }

    fn size(&mut self, byte: u8) -> Option<Phase> {
        let digit = match byte {
            b'\r' if self.digits > 0 => return Some(Phase::SizeLf),
            b';' | b' ' | b'\t' if self.digits > 0 => return Some(Phase::Extension),
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return None,
        };
        self.digits += 1;
        self.left = self.left << 4 | u64::from(digit);
        (self.digits <= MAX_DIGITS).then_some(Phase::Size)
    }
}

/// How far a body has come, where a stream that must be `Send` can see it. Only one thread ever touches it.
#[derive(Debug, Default)]
pub(super) struct SharedChunks {
    phase: AtomicU8,
    digits: AtomicU8,
    left: AtomicU64,
}

impl SharedChunks {
    pub(super) fn set(&self, chunks: Chunks) {
        self.digits.store(chunks.digits, Ordering::Relaxed);
        self.left.store(chunks.left, Ordering::Relaxed);
        self.phase.store(chunks.phase as u8, Ordering::Relaxed);
    }

    /// No chunked body is under way any more.
    pub(super) fn stop(&self) {
        self.phase.store(Phase::None as u8, Ordering::Relaxed);
    }

    /// Reads on, if a chunked body is under way.
    pub(super) fn read(&self, bytes: &[u8]) -> Result<(), Malformed> {
        let phase = PHASES[usize::from(self.phase.load(Ordering::Relaxed)) % PHASES.len()];
        if phase == Phase::None {
            return Ok(());
        }
        let (digits, left) = (self.digits.load(Ordering::Relaxed), self.left.load(Ordering::Relaxed));
        let mut chunks = Chunks { phase, digits, left };
        chunks.read(bytes)?;
        self.set(chunks);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, piece: usize) -> Result<Chunks, Malformed> {
        let shared = SharedChunks::default();
        shared.set(Chunks::BEGIN);
        for piece in body.as_bytes().chunks(piece) {
            shared.read(piece)?;
        }
        let phase = PHASES[usize::from(shared.phase.load(Ordering::Relaxed))];
        Ok(Chunks { phase, ..Chunks::default() })
    }

    #[test]
    fn bodies_as_the_specification_says_are_read_in_pieces_of_any_size() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;a=\"b\"\r\nhello\r\n000\r\n\r\n",
            "5 ; a\r\nhello\r\n0;c\r\n\r\n",
            "1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX: y\r\nZ: \r\n\r\n",
            "3\r\n\r\n\n\r\n0\r\n\r\n",
            "0\r\n\r\nGET / HTTP/1.1\n\n",
        ] {
            for piece in 1..=body.len() {
                assert_eq!(read(body, piece), Ok(Chunks::default()), "{body:?} by {piece}");
            }
        }
    }

    #[test]
    fn every_phase_is_found_by_its_number() {
        assert!(PHASES.iter().enumerate().all(|(number, &phase)| number == usize::from(phase as u8)));
    }

    #[test]
    fn other_bodies_are_malformed() {
        for body in [
            "\r\n",
            ";a\r\n",
            "-1\r\n",
            "5g\r\n",
            "5\nhello",
            "5\rhello",
            "5;a\nhello",
            "5;\0\r\nhello",
            "00000000000000005\r\nhello",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "0\r\n\n",
            "0\n\n",
            "0\r\nX: y\n\r\n",
            "0\r\nX: y\r\r\n",
            "0\r\n\rX",
        ] {
            for piece in [1, body.len()] {
                assert_eq!(read(body, piece), Err(Malformed), "{body:?} by {piece}");
            }
        }
    }
}
