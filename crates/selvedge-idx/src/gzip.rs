//! Decompressing gzip (RFC 1952) straight into the caller's memory, without an intermediate buffer, and counting the
//! bytes consumed, for error messages.
//!
//! A file of several members, as parallel and block compressors write, is read as one stream.

use std::io::{self, BufRead};
use std::path::Path;

use flate2::{Decompress, DecompressError, FlushDecompress, Status};

use crate::error::{IdxError, Offset, Problem};

/// The first byte of every gzip file; an IDX header begins with zero.
pub(crate) const FIRST_BYTE: u8 = 0x1f;

/// Deflate spends at least two bits on a match of at most 258 bytes, so a byte of input yields at most 1032 bytes.
pub(crate) const MAX_EXPANSION: u64 = 1032;

/// Every gzip file may decompress to this many bytes, whatever its size.
const UNSUSPICIOUS_BYTES: u64 = 32 << 20;

/// Beyond [`UNSUSPICIOUS_BYTES`] a file may decompress to this many times its size. Images shrink to a half or a tenth;
/// only constant data approaches the limit of the format.
pub(crate) const UNSUSPICIOUS_EXPANSION: u64 = 100;

const WINDOW_BITS: u8 = 15;

/// A gzip decoder over buffered input.
pub(crate) struct Inflater<R> {
    reader: R,
    member: Decompress,
    /// The checksum of the last member is verified; another member or the end must follow.
    between_members: bool,
    /// Compressed bytes consumed so far.
    consumed: u64,
}

impl<R: BufRead> Inflater<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, member: Decompress::new_gzip(WINDOW_BITS), between_members: false, consumed: 0 }
    }

    /// Fills `buffer`, or as much of it as the stream still has, and returns the number of bytes.
    pub(crate) fn read(&mut self, buffer: &mut [u8], file: &Path) -> Result<usize, IdxError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let produced = self.advance(file, |member, input| {
                member.decompress(input, &mut buffer[filled..], FlushDecompress::None)
            })?;
            match produced {
                Some(produced) => filled += produced,
                None => break,
            }
        }
        Ok(filled)
    }

    /// Fills the spare capacity of `out`, or as much of it as the stream still has; never reallocates.
    pub(crate) fn read_vec(&mut self, out: &mut Vec<u8>, file: &Path) -> Result<(), IdxError> {
        while out.len() < out.capacity() {
            let produced =
                self.advance(file, |member, input| member.decompress_vec(input, out, FlushDecompress::None))?;
            if produced.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Runs the decoder once over the buffered input. Returns the number of bytes that it produced, which can be 0, or
    /// `None` if the file ends after a complete member.
    fn advance(
        &mut self,
        file: &Path,
        run: impl FnOnce(&mut Decompress, &[u8]) -> Result<Status, DecompressError>,
    ) -> Result<Option<usize>, IdxError> {
        let at = Offset::File(self.consumed);
        let input = fill(&mut self.reader, file)?;
        if self.between_members {
            match input.first() {
                None => return Ok(None),
                Some(&FIRST_BYTE) => {}
                Some(byte) => {
                    return Err(IdxError::invalid(
                        file,
                        Problem::TrailingBytes,
                        at,
                        "the end of the file after the gzip data",
                        format!("a byte {byte:02x}"),
                        "the file was damaged or appended to: fetch or write it again",
                    ));
                }
            }
            self.member = Decompress::new_gzip(WINDOW_BITS);
            self.between_members = false;
        }
        if input.is_empty() {
            return Err(IdxError::invalid(
                file,
                Problem::Truncated,
                at,
                "more gzip data",
                "the end of the file",
                "the file was not written or downloaded completely: fetch it again",
            ));
        }
        let (total_in, total_out) = (self.member.total_in(), self.member.total_out());
        let outcome = run(&mut self.member, input);
        let used = self.member.total_in() - total_in;
        let produced = self.member.total_out() - total_out;
        // At most the length of `input`, so it fits into a usize.
        self.reader.consume(used as usize);
        self.consumed += used;
        match outcome {
            Ok(Status::StreamEnd) => self.between_members = true,
            Ok(_) if used > 0 || produced > 0 => {}
            stuck_or_failed => {
                let reason = stuck_or_failed.err().and_then(|e| e.message().map(str::to_owned));
                return Err(IdxError::invalid(
                    file,
                    Problem::Gzip,
                    Offset::File(self.consumed),
                    "valid gzip data with a matching checksum",
                    reason.unwrap_or_else(|| "data that cannot be decompressed".to_owned()),
                    "the file is damaged: fetch or write it again",
                ));
            }
        }
        Ok(Some(produced as usize))
    }
}

/// The buffered bytes of a reader, refilled if there are none; empty only at the end.
pub(crate) fn fill<'a, R: BufRead>(reader: &'a mut R, file: &Path) -> Result<&'a [u8], IdxError> {
    // Two calls, since a borrow cannot leave the loop: the second returns the buffer that the first one filled.
    loop {
        match reader.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(IdxError::io(file, "read the file", error)),
        }
    }
    reader.fill_buf().map_err(|error| IdxError::io(file, "read the file", error))
}

/// Whether a gzip file of `len` bytes decompresses to more than is plausible for real data.
pub(crate) fn is_suspicious(decompressed: u64, len: u64) -> bool {
    decompressed > UNSUSPICIOUS_BYTES && decompressed > len.saturating_mul(UNSUSPICIOUS_EXPANSION)
}
