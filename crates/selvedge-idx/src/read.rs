//! Reading IDX from a file or from bytes, plain or gzip, with the element type of the header or one that the caller
//! requires.
//!
//! The order of the checks makes hostile files harmless: header, element type, rank, product of the dimensions, size of
//! the file. Only then is memory for the data allocated.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, IxDyn};

use crate::array::IdxArray;
use crate::element::IdxElement;
use crate::element::sealed::ByteSource;
use crate::error::{IdxError, Offset, Problem};
use crate::gzip::{self, Inflater};
use crate::header::{self, ElementType, Header};

/// Size of the reads from the file: large enough to make system calls rare, small enough to stay in L2.
const READ_BUFFER: usize = 256 << 10;

/// Reads a file with elements of any type. The first byte, not the name, decides whether it is gzip.
///
/// # Errors
/// [`IdxError::Io`] if the file cannot be read; otherwise [`Problem::NotIdx`], [`Problem::UnknownElementType`],
/// [`Problem::Dimensions`], [`Problem::Truncated`], [`Problem::TrailingBytes`], [`Problem::Gzip`],
/// [`Problem::GzippedTwice`] or [`Problem::Bomb`].
///
/// ```
/// use ndarray::arr1;
/// use selvedge_idx::{Compression, IdxArray, read, write};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("weights.idx");
/// write(&path, &arr1(&[0.5_f32, -1.0]), Compression::Gzip)?;
/// assert_eq!(read(&path)?, IdxArray::F32(arr1(&[0.5, -1.0]).into_dyn()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read(path: impl AsRef<Path>) -> Result<IdxArray, IdxError> {
    open(path.as_ref())?.into_any()
}

/// Reads a file whose elements must have the type `T`; nothing is converted.
///
/// # Errors
/// As [`read`], and [`Problem::WrongElementType`] if the elements have another type.
///
/// ```
/// use ndarray::{arr2, ArrayD};
/// use selvedge_idx::{Compression, Problem, read_as, write};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("table.idx");
/// write(&path, &arr2(&[[1_i32, 2, 3], [4, 5, 6]]), Compression::None)?;
///
/// let table: ArrayD<i32> = read_as(&path)?;
/// assert_eq!(table[[1, 2]], 6);
/// assert_eq!(read_as::<u8>(&path).unwrap_err().problem(), Some(Problem::WrongElementType));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_as<T: IdxElement>(path: impl AsRef<Path>) -> Result<ArrayD<T>, IdxError> {
    open(path.as_ref())?.into_array()
}

/// Reads bytes in memory, plain or gzip. Error messages call them `name`.
///
/// To read a stream, collect it first, with a limit that suits its origin.
///
/// # Errors
/// As [`read`].
///
/// ```
/// let bytes = [0, 0, 0x09, 1, 0, 0, 0, 2, 0xff, 7];
/// let array = selvedge_idx::read_from(&bytes, "two signed bytes")?;
/// assert_eq!(array.shape(), [2]);
///
/// let error = selvedge_idx::read_from(&bytes[..9], "two signed bytes").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "two signed bytes: truncated file at byte 9: expected 10 bytes for 2 elements of type \
///      i8 (code 0x09), found 9; the file was not written or downloaded completely: fetch it again",
/// );
/// # Ok::<(), selvedge_idx::IdxError>(())
/// ```
pub fn read_from(bytes: &[u8], name: impl AsRef<Path>) -> Result<IdxArray, IdxError> {
    Idx::new(bytes, bytes.len() as u64, name.as_ref())?.into_any()
}

/// Opens a file and reads its header.
pub(crate) fn open(path: &Path) -> Result<Idx<BufReader<File>>, IdxError> {
    let file = File::open(path).map_err(|e| IdxError::io(path, "open the file", e))?;
    let metadata = file.metadata().map_err(|e| IdxError::io(path, "examine the file", e))?;
    if !metadata.is_file() {
        // The size of a pipe or device is unknown, so there is no limit for the memory.
        let kind = if metadata.is_dir() {
            io::Error::from(io::ErrorKind::IsADirectory)
        } else {
            io::Error::new(io::ErrorKind::Unsupported, "not a regular file")
        };
        return Err(IdxError::io(path, "read an array", kind));
    }
    Idx::new(BufReader::with_capacity(READ_BUFFER, file), metadata.len(), path)
}

/// An input of known size whose header has been read, but not its data.
pub(crate) struct Idx<R> {
    header: Header,
    source: Source<R>,
}

impl<R: BufRead> Idx<R> {
    fn new(reader: R, len: u64, name: &Path) -> Result<Self, IdxError> {
        let mut source = Source::new(reader, len, name)?;
        let mut magic = [0; Header::MAGIC_LEN];
        source.read_header(&mut magic)?;
        if source.gzip && magic[0] == gzip::FIRST_BYTE {
            return Err(IdxError::invalid(
                name,
                Problem::GzippedTwice,
                Offset::Data(0),
                "an IDX header",
                "a second gzip header",
                "decompress it once with gunzip and use the result",
            ));
        }
        let (element, rank) = header::decode_magic(magic, name, source.at())?;
        let mut dims = vec![0; 4 * rank];
        source.read_header(&mut dims)?;
        let header = header::decode_dims(element, &dims, name, source.at())?;
        Ok(Self { header, source })
    }

    pub(crate) fn dims(&self) -> &[usize] {
        &self.header.dims
    }

    /// An error at byte `offset` of the decompressed input.
    pub(crate) fn invalid(
        &self,
        problem: Problem,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> IdxError {
        let at = self.source.at()(offset);
        IdxError::invalid(&self.source.name, problem, at, expected, found, advice)
    }

    /// Reads the data as elements of type `T`, which the header must name.
    pub(crate) fn into_array<T: IdxElement>(mut self) -> Result<ArrayD<T>, IdxError> {
        if self.header.element != T::TYPE {
            return Err(self.invalid(
                Problem::WrongElementType,
                2,
                format!("elements of type {}", T::TYPE),
                self.header.element.to_string(),
                "use a file of this type, or read the file as its own type",
            ));
        }
        self.check_size()?;
        let values = T::read(&mut self.source, self.header.elements())?;
        self.source.finish()?;
        let shape = IxDyn(&self.header.dims);
        ArrayD::from_shape_vec(shape, values).map_err(|error| {
            self.invalid(
                Problem::Dimensions,
                Header::MAGIC_LEN as u64,
                "dimensions that an array can have",
                format!("{} ({error})", self.header.shape()),
                "the file is damaged: fetch or write it again",
            )
        })
    }

    fn into_any(self) -> Result<IdxArray, IdxError> {
        Ok(match self.header.element {
            ElementType::U8 => IdxArray::U8(self.into_array()?),
            ElementType::I8 => IdxArray::I8(self.into_array()?),
            ElementType::I16 => IdxArray::I16(self.into_array()?),
            ElementType::I32 => IdxArray::I32(self.into_array()?),
            ElementType::F32 => IdxArray::F32(self.into_array()?),
            ElementType::F64 => IdxArray::F64(self.into_array()?),
        })
    }

    /// Compares the size that the header announces with the file's, before memory is allocated.
    fn check_size(&self) -> Result<(), IdxError> {
        let announced = self.header.total();
        let len = self.source.len;
        let what = || {
            let Header { element, .. } = self.header;
            format!("{announced} bytes for {} elements of type {element}", self.header.shape())
        };
        if !self.source.gzip {
            return if len < announced {
                Err(self.source.truncated(len, what(), len.to_string()))
            } else if len > announced {
                Err(self.source.trailing(announced, what(), len.to_string()))
            } else {
                Ok(())
            };
        }
        let possible = len.saturating_mul(gzip::MAX_EXPANSION);
        if announced > possible {
            let found = format!("{len} bytes of gzip, which decompress to at most {possible}");
            return Err(self.source.truncated(Header::MAGIC_LEN as u64, what(), found));
        }
        if gzip::is_suspicious(announced, len) {
            return Err(self.invalid(
                Problem::Bomb,
                Header::MAGIC_LEN as u64,
                format!("at most {} times the {len} bytes of the file", gzip::UNSUSPICIOUS_EXPANSION),
                what(),
                "if you trust the file, decompress it with gunzip and use the result",
            ));
        }
        Ok(())
    }
}

/// The bytes of an input, decompressed if they are gzip.
struct Source<R> {
    input: Input<R>,
    /// Length of the input itself, before decompression.
    len: u64,
    gzip: bool,
    /// Decompressed bytes read so far.
    position: u64,
    name: PathBuf,
}

enum Input<R> {
    Plain(R),
    Gzip(Inflater<R>),
}

impl<R: BufRead> Source<R> {
    fn new(mut reader: R, len: u64, name: &Path) -> Result<Self, IdxError> {
        let gzip = gzip::fill(&mut reader, name)?.first() == Some(&gzip::FIRST_BYTE);
        let input = if gzip { Input::Gzip(Inflater::new(reader)) } else { Input::Plain(reader) };
        Ok(Self { input, len, gzip, position: 0, name: name.to_path_buf() })
    }

    /// The kind of offset for positions in the decompressed input.
    fn at(&self) -> fn(u64) -> Offset {
        if self.gzip { Offset::Data } else { Offset::File }
    }

    fn truncated(&self, offset: u64, expected: String, found: String) -> IdxError {
        let advice = "the file was not written or downloaded completely: fetch it again";
        IdxError::invalid(&self.name, Problem::Truncated, self.at()(offset), expected, found, advice)
    }

    fn trailing(&self, offset: u64, expected: String, found: String) -> IdxError {
        let advice = "the file was damaged or appended to: fetch or write it again";
        let at = self.at()(offset);
        IdxError::invalid(&self.name, Problem::TrailingBytes, at, expected, found, advice)
    }

    /// Fills `buffer`, or as much of it as there is data for, and returns the number of bytes.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, IdxError> {
        let filled = match &mut self.input {
            Input::Gzip(inflater) => inflater.read(buffer, &self.name)?,
            Input::Plain(reader) => {
                let mut filled = 0;
                while filled < buffer.len() {
                    let available = gzip::fill(reader, &self.name)?;
                    if available.is_empty() {
                        break;
                    }
                    let count = available.len().min(buffer.len() - filled);
                    buffer[filled..filled + count].copy_from_slice(&available[..count]);
                    reader.consume(count);
                    filled += count;
                }
                filled
            }
        };
        self.position += filled as u64;
        Ok(filled)
    }

    fn read_header(&mut self, buffer: &mut [u8]) -> Result<(), IdxError> {
        let end = self.position + buffer.len() as u64;
        if self.read(buffer)? < buffer.len() {
            let expected = format!("a header of {end} bytes or more");
            return Err(self.truncated(self.position, expected, "the end of the data".to_owned()));
        }
        Ok(())
    }

    /// Checks that nothing follows, and for gzip the checksum.
    fn finish(&mut self) -> Result<(), IdxError> {
        let end = self.position;
        match self.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(self.trailing(end, format!("{end} bytes"), "more".to_owned())),
        }
    }
}

impl<R: BufRead> ByteSource for Source<R> {
    fn reserve<T>(&self, count: usize) -> Result<Vec<T>, IdxError> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| {
            let cause = io::Error::from(io::ErrorKind::OutOfMemory);
            IdxError::io(&self.name, "reserve memory for the data", cause)
        })?;
        Ok(values)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), IdxError> {
        let end = self.position + buffer.len() as u64;
        if self.read(buffer)? < buffer.len() {
            let expected = format!("data up to byte {end} at least");
            return Err(self.truncated(self.position, expected, "the end".to_owned()));
        }
        Ok(())
    }

    fn read_bytes(&mut self, count: usize) -> Result<Vec<u8>, IdxError> {
        let mut bytes: Vec<u8> = self.reserve(count)?;
        match &mut self.input {
            Input::Gzip(inflater) => inflater.read_vec(&mut bytes, &self.name)?,
            Input::Plain(reader) => {
                reader
                    .take(count as u64)
                    .read_to_end(&mut bytes)
                    .map_err(|e| IdxError::io(&self.name, "read the file", e))?;
            }
        }
        let end = self.position + count as u64;
        self.position += bytes.len() as u64;
        if bytes.len() < count {
            let expected = format!("data up to byte {end}");
            return Err(self.truncated(self.position, expected, "the end".to_owned()));
        }
        // An allocator may give more room than requested, and decompression fills all of it.
        if bytes.len() > count {
            return Err(self.trailing(end, format!("{end} bytes"), "more".to_owned()));
        }
        Ok(bytes)
    }
}
