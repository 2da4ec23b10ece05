//! Writing IDX, plain or gzip, to memory or to a file.

use std::io::{self, Write};
use std::path::Path;

use byteorder::{BigEndian, ByteOrder};
use flate2::write::GzEncoder;
use ndarray::{ArrayRef, Dimension};
use selvedge_atomic_file::AtomicFile;

use crate::element::IdxElement;
use crate::error::{IdxError, Offset, Problem};
use crate::gzip;
use crate::header::Header;

/// The compression of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Plain.
    #[default]
    None,
    /// Gzip at its default level, without name or time, so that equal arrays give equal files.
    Gzip,
}

/// Elements that are encoded at a time.
const CHUNK: usize = 1 << 14;

/// Writes an array of any rank and layout as an IDX file, in row-major order.
///
/// The file is written whole or not at all, in place of an older one: see [`selvedge_atomic_file`].
///
/// # Errors
/// [`IdxError::Io`] if the file cannot be written; [`Problem::Dimensions`] if the array has more than 255 dimensions or
/// one above `u32::MAX`; [`Problem::Bomb`] if gzip shrinks it so much that [`read`](crate::read) would refuse it (write
/// such an array plain).
///
/// ```
/// use ndarray::Array3;
/// use selvedge_idx::{Compression, read_as, write};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("t10k-images-idx3-ubyte.gz");
/// let images = Array3::from_shape_fn((10, 4, 4), |(n, y, x)| (n + y * x) as u8);
/// write(&path, &images, Compression::Gzip)?;
/// assert_eq!(read_as::<u8>(&path)?, images.into_dyn());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write<T: IdxElement, D: Dimension>(
    path: impl AsRef<Path>,
    array: &ArrayRef<T, D>,
    compression: Compression,
) -> Result<(), IdxError> {
    let path = path.as_ref();
    let header = encode_header(array, path)?;
    let mut file = AtomicFile::create(path).map_err(IdxError::not_written)?;
    encode(&mut file, &header, array, compression).map_err(|e| IdxError::io(path, "write the file", e))?;
    if compression == Compression::Gzip {
        check_expansion(&header, array, file.written(), path)?;
    }
    file.commit().map_err(IdxError::not_written)
}

/// Encodes an array as the bytes of a file. Error messages call them `name`.
///
/// # Errors
/// As [`write()`], except those of the file.
///
/// ```
/// use ndarray::arr1;
/// use selvedge_idx::{Compression, to_bytes};
///
/// let bytes = to_bytes(&arr1(&[1_i16, -1]), Compression::None, "a pair")?;
/// assert_eq!(bytes, [0, 0, 0x0B, 1, 0, 0, 0, 2, 0, 1, 0xff, 0xff]);
/// # Ok::<(), selvedge_idx::IdxError>(())
/// ```
pub fn to_bytes<T: IdxElement, D: Dimension>(
    array: &ArrayRef<T, D>,
    compression: Compression,
    name: impl AsRef<Path>,
) -> Result<Vec<u8>, IdxError> {
    let name = name.as_ref();
    let header = encode_header(array, name)?;
    let mut bytes = Vec::new();
    encode(&mut bytes, &header, array, compression).map_err(|e| IdxError::io(name, "encode the array", e))?;
    if compression == Compression::Gzip {
        check_expansion(&header, array, bytes.len() as u64, name)?;
    }
    Ok(bytes)
}

fn encode_header<T: IdxElement, D: Dimension>(array: &ArrayRef<T, D>, name: &Path) -> Result<Vec<u8>, IdxError> {
    let impossible = |offset: u64, expected: String, found: String| {
        let advice = "reshape or split the array";
        let at = Offset::Data(offset);
        IdxError::invalid(name, Problem::Dimensions, at, expected, found, advice)
    };
    let rank = u8::try_from(array.ndim())
        .map_err(|_| impossible(3, "255 dimensions at most".to_owned(), array.ndim().to_string()))?;
    let mut header = vec![0, 0, T::TYPE.code(), rank];
    for (axis, &dim) in array.shape().iter().enumerate() {
        let dim = u32::try_from(dim).map_err(|_| {
            let offset = Header::MAGIC_LEN + 4 * axis;
            impossible(offset as u64, format!("{} at most along axis {axis}", u32::MAX), dim.to_string())
        })?;
        let mut bytes = [0; 4];
        BigEndian::write_u32(&mut bytes, dim);
        header.extend(bytes);
    }
    Ok(header)
}

/// Refuses a file that the reader would refuse.
fn check_expansion<T: IdxElement, D: Dimension>(
    header: &[u8],
    array: &ArrayRef<T, D>,
    compressed: u64,
    name: &Path,
) -> Result<(), IdxError> {
    let plain = header.len() as u64 + array.len() as u64 * T::TYPE.size() as u64;
    if !gzip::is_suspicious(plain, compressed) {
        return Ok(());
    }
    Err(IdxError::invalid(
        name,
        Problem::Bomb,
        Offset::File(compressed),
        format!("{} bytes of gzip or more", plain / gzip::UNSUSPICIOUS_EXPANSION),
        format!("{compressed}, for an array of {plain} bytes"),
        "write it without compression: readers would take it for a gzip bomb",
    ))
}

/// Writes header and data to `out`.
fn encode<T: IdxElement, D: Dimension>(
    out: &mut impl Write,
    header: &[u8],
    array: &ArrayRef<T, D>,
    compression: Compression,
) -> io::Result<()> {
    match compression {
        Compression::None => encode_plain(out, header, array),
        Compression::Gzip => {
            let mut gzip = GzEncoder::new(out, flate2::Compression::default());
            encode_plain(&mut gzip, header, array)?;
            gzip.finish().map(|_| ())
        }
    }
}

fn encode_plain<T: IdxElement, D: Dimension>(
    out: &mut impl Write,
    header: &[u8],
    array: &ArrayRef<T, D>,
) -> io::Result<()> {
    out.write_all(header)?;
    let mut elements = array.iter().copied();
    let mut values = Vec::with_capacity(CHUNK.min(array.len()));
    let mut bytes = vec![0; values.capacity() * T::TYPE.size()];
    loop {
        values.clear();
        values.extend(elements.by_ref().take(CHUNK));
        if values.is_empty() {
            return Ok(());
        }
        let bytes = &mut bytes[..values.len() * T::TYPE.size()];
        T::encode(&values, bytes);
        out.write_all(bytes)?;
    }
}
