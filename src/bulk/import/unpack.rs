//! A packed upload as bytes. What it may grow to and what it may need of memory is bounded; where it is damaged is told.

use std::io::{self, Read};

use zstd::stream::raw::{DParameter, Decoder, Operation as _};

/// Largest window of a frame, as a power of two: 16 MiB. A frame that needs more is refused, because unpacking it would
/// need as much memory.
const WINDOW_LOG_MAX: u32 = 24;
/// Times that content may be larger than its packed form, once it has [`GRACE_BYTES`].
const RATIO_MAX: u64 = 1_000;
/// Bytes that any content may have.
const GRACE_BYTES: u64 = 64 << 20;
/// Packed bytes read at once.
const INPUT_BYTES: usize = 128 << 10;

/// Unpacks while it is read.
pub(super) struct Unpack<R> {
    source: R,
    decoder: Decoder<'static>,
    input: Box<[u8]>,
    from: usize,
    upto: usize,
    /// Packed bytes used.
    used: u64,
    /// Bytes they became.
    made: u64,
    within_frame: bool,
}

impl<R: Read> Unpack<R> {
    pub(super) fn new(source: R) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        let input = vec![0; INPUT_BYTES].into_boxed_slice();
        Ok(Self { source, decoder, input, from: 0, upto: 0, used: 0, made: 0, within_frame: false })
    }

    fn fault(&self, what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{what} at byte {} of the packed content", self.used))
    }
}

impl<R: Read> Read for Unpack<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.from == self.upto {
                (self.from, self.upto) = (0, self.source.read(&mut self.input)?);
            }
            let at_end = self.upto == 0;
            if at_end && !self.within_frame {
                return Ok(0);
            }
            if !self.within_frame {
                self.decoder.reinit()?;
            }
            let done = self.decoder.run_on_buffers(&self.input[self.from..self.upto], out);
            let done = done.map_err(|error| self.fault(&format!("the zstd stream is damaged ({error})")))?;
            self.from += done.bytes_read;
            self.used += done.bytes_read as u64;
            self.made += done.bytes_written as u64;
            self.within_frame = done.remaining != 0;
            if self.made > GRACE_BYTES && self.made > self.used.saturating_mul(RATIO_MAX) {
                return Err(self.fault(&format!("the zstd stream grows more than {RATIO_MAX}-fold")));
            }
            if done.bytes_written > 0 {
                return Ok(done.bytes_written);
            }
            if at_end && self.within_frame {
                return Err(self.fault("the zstd stream is cut off"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("opens");
        encoder.include_checksum(true).expect("a parameter");
        io::Write::write_all(&mut encoder, text).expect("packs");
        encoder.finish().expect("ends")
    }

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Unpack::new(bytes)?.read_to_end(&mut out).map(|_| out)
    }

    fn text(lines: usize) -> Vec<u8> {
        (0..lines).flat_map(|n| format!("{{\"n\":{n},\"square\":{}}}\n", n * n).into_bytes()).collect()
    }

    #[test]
    fn frames_one_after_the_other_are_one_content() {
        let (first, second) = (text(20_000), text(7));
        let both = [packed(&first), packed(b""), packed(&second)].concat();
        assert_eq!(unpacked(&both).expect("unpacks"), [first, second].concat());
        assert_eq!(unpacked(b"").expect("nothing"), b"");
    }

    #[test]
    fn what_is_cut_off_or_changed_is_told_with_its_byte_and_what_came_before_is_given() {
        let whole = packed(&text(50_000));
        for cut in [whole.len() - 1, whole.len() / 2, 5] {
            let mut out = Vec::new();
            let error = Unpack::new(&whole[..cut]).expect("opens").read_to_end(&mut out).expect_err("cut off");
            assert!(error.to_string().contains(&format!("cut off at byte {cut} ")), "{error}");
            assert!(text(50_000).starts_with(&out));
        }
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 0x55;
        changed[whole.len() / 2 + 1] ^= 0x55;
        let error = unpacked(&changed).map(|_| ()).expect_err("damaged").to_string();
        assert!(error.contains("damaged") && error.contains("at byte "), "{error}");
        assert!(unpacked(b"{\"type\":\"a.b\"}\n").map(|_| ()).expect_err("not packed").to_string().contains("damaged"));
    }

    #[test]
    fn a_bomb_is_refused_before_it_has_grown_far() {
        let bomb = packed(&vec![b'x'; 100 << 20]);
        assert!(bomb.len() < 100_000);
        let mut unpack = Unpack::new(&*bomb).expect("opens");
        let error = io::copy(&mut unpack, &mut io::sink()).expect_err("refused");
        assert!(error.to_string().contains("grows more than"), "{error}");
        assert!(unpack.made <= GRACE_BYTES + (1 << 20), "{}", unpack.made);
    }

    #[test]
    fn a_frame_that_would_need_much_memory_is_refused() {
        let mut encoder = zstd::stream::raw::Encoder::new(3).expect("opens");
        encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(27)).expect("a parameter");
        let mut writer = zstd::stream::write::Encoder::with_encoder(Vec::new(), encoder);
        io::copy(&mut &*vec![7_u8; 1 << 20], &mut writer).expect("packs");
        let bytes = writer.finish().expect("ends");
        assert!(unpacked(&bytes).is_err());
    }
}
