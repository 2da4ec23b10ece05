//! Every element type, rank, layout and compression survives writing and reading, and a failed write keeps the old
//! file.

use std::fmt::Debug;
use std::fs;
use std::path::Path;

use ndarray::{Array, Array2, ArrayD, Axis, IxDyn, s};
use proptest::prelude::*;
use selvedge_idx::{Compression, IdxArray, IdxElement, Problem, read, read_as, read_from, to_bytes, write};

/// Arrays of rank 0 to 6 with 0 to 3 elements along each axis.
fn array<T: IdxElement + Arbitrary + Debug>() -> impl Strategy<Value = ArrayD<T>> {
    prop::collection::vec(0_usize..4, 0..7).prop_flat_map(|shape| {
        let count = shape.iter().product::<usize>();
        prop::collection::vec(any::<T>(), count)
            .prop_map(move |values| ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap())
    })
}

/// Compares encoded bytes, so that a NaN equals itself.
fn round_trip<T: IdxElement + Debug>(array: &ArrayD<T>) -> Result<(), TestCaseError>
where
    IdxArray: From<ArrayD<T>>,
{
    let folder = tempfile::tempdir().unwrap();
    let plain = to_bytes(array, Compression::None, "array").unwrap();
    prop_assert_eq!(plain[2], T::TYPE.code());
    prop_assert_eq!(plain.len(), 4 + 4 * array.ndim() + array.len() * T::TYPE.size());
    for compression in [Compression::None, Compression::Gzip] {
        // The name does not matter.
        let path = folder.path().join("array.idx.gz");
        write(&path, array, compression).unwrap();
        prop_assert_eq!(fs::read(&path).unwrap(), to_bytes(array, compression, "array").unwrap());
        let back: ArrayD<T> = read_as(&path).unwrap();
        prop_assert_eq!(back.shape(), array.shape());
        prop_assert_eq!(&to_bytes(&back, Compression::None, "back").unwrap(), &plain);
        prop_assert_eq!(read(&path).unwrap().element_type(), T::TYPE);
    }
    let reversed = array.t();
    let bytes = to_bytes(&reversed, Compression::None, "reversed").unwrap();
    let copied = to_bytes(&reversed.as_standard_layout(), Compression::None, "copied").unwrap();
    prop_assert_eq!(bytes, copied);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn u8_arrays(array in array::<u8>()) { round_trip(&array)?; }
    #[test]
    fn i8_arrays(array in array::<i8>()) { round_trip(&array)?; }
    #[test]
    fn i16_arrays(array in array::<i16>()) { round_trip(&array)?; }
    #[test]
    fn i32_arrays(array in array::<i32>()) { round_trip(&array)?; }
    #[test]
    fn f32_arrays(array in array::<f32>()) { round_trip(&array)?; }
    #[test]
    fn f64_arrays(array in array::<f64>()) { round_trip(&array)?; }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for start in [&[][..], &[0, 0, 8], &[0, 0, 0xd, 1], &[0x1f, 0x8b, 8, 0]] {
            let _ = read_from(&[start, &bytes].concat(), "any");
        }
    }
}

/// Larger than the chunks in which elements are encoded and decoded.
#[test]
fn arrays_of_many_chunks() {
    fn check<T: IdxElement + PartialEq + Debug>(value: impl Fn(usize) -> T) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let array = Array::from_shape_fn((333, 211, 3), |(a, b, c)| value(a * 7919 + b * 31 + c)).into_dyn();
        for compression in [Compression::None, Compression::Gzip] {
            write(&path, &array, compression).unwrap();
            assert_eq!(read_as::<T>(&path).unwrap(), array);
        }
    }
    check(|i| i as u8);
    check(|i| i as i8);
    check(|i| i as i16);
    check(|i| i as i32 - 1_000_000);
    check(|i| i as f32 * 0.37);
    check(|i| i as f64 * -0.37);
}

/// Bytes written by hand from the description of the format.
#[test]
fn golden_bytes() {
    let golden = |code: u8, data: &[u8]| [&[0, 0, code, 1, 0, 0, 0, 2], data].concat();
    let bytes = |array: &IdxArray| match array {
        IdxArray::U8(a) => to_bytes(a, Compression::None, ""),
        IdxArray::I8(a) => to_bytes(a, Compression::None, ""),
        IdxArray::I16(a) => to_bytes(a, Compression::None, ""),
        IdxArray::I32(a) => to_bytes(a, Compression::None, ""),
        IdxArray::F32(a) => to_bytes(a, Compression::None, ""),
        IdxArray::F64(a) => to_bytes(a, Compression::None, ""),
    };
    let pair = IxDyn(&[2]);
    let cases: [(IdxArray, Vec<u8>); 6] = [
        (ArrayD::from_shape_vec(pair.clone(), vec![1_u8, 255]).unwrap().into(), golden(8, &[1, 255])),
        (ArrayD::from_shape_vec(pair.clone(), vec![1_i8, -2]).unwrap().into(), golden(9, &[1, 254])),
        (ArrayD::from_shape_vec(pair.clone(), vec![258_i16, -2]).unwrap().into(), golden(0xb, &[1, 2, 255, 254])),
        (
            ArrayD::from_shape_vec(pair.clone(), vec![16_909_060_i32, -2]).unwrap().into(),
            golden(0xc, &[1, 2, 3, 4, 255, 255, 255, 254]),
        ),
        (
            ArrayD::from_shape_vec(pair.clone(), vec![1.0_f32, -2.0]).unwrap().into(),
            golden(0xd, &[0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0]),
        ),
        (
            ArrayD::from_shape_vec(pair, vec![1.0_f64, -2.0]).unwrap().into(),
            golden(0xe, &[0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0]),
        ),
    ];
    for (array, expected) in cases {
        assert_eq!(bytes(&array).unwrap(), expected);
        assert_eq!(read_from(&expected, "golden").unwrap(), array);
    }
}

#[test]
fn strided_views_are_written_in_logical_order() {
    let array = Array2::from_shape_fn((6, 8), |(y, x)| (10 * y + x) as i16);
    let view = array.slice(s![..;2, ..;-3]);
    let bytes = to_bytes(&view, Compression::None, "view").unwrap();
    assert_eq!(read_from(&bytes, "view").unwrap(), IdxArray::I16(view.to_owned().into_dyn()));
}

#[test]
fn arrays_beyond_the_format_are_refused() {
    let deep = ArrayD::from_elem(IxDyn(&[1; 256]), 0_u8);
    let error = to_bytes(&deep, Compression::None, "deep").unwrap_err();
    assert_eq!(error.problem(), Some(Problem::Dimensions));
    assert!(to_bytes(&deep.index_axis(Axis(0), 0), Compression::None, "255").is_ok());

    #[cfg(target_pointer_width = "64")]
    {
        let long = Array2::<u8>::zeros((0, (u32::MAX as usize) + 1));
        let message = to_bytes(&long, Compression::None, "long").unwrap_err().to_string();
        assert!(message.contains("at most along axis 1, found 4294967296"), "{message}");
    }
}

#[test]
fn a_file_that_the_reader_would_refuse_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeros");
    let zeros = Array2::<u8>::zeros((33 << 10, 1 << 10));
    assert_eq!(write(&path, &zeros, Compression::Gzip).unwrap_err().problem(), Some(Problem::Bomb));
    assert_eq!(entries(folder.path()), Vec::<String>::new());
    write(&path, &zeros, Compression::None).unwrap();
    assert_eq!(read_as::<u8>(&path).unwrap().shape(), zeros.shape());

    let fewer = zeros.slice(s![..31 << 10, ..]);
    write(&path, &fewer, Compression::Gzip).unwrap();
    assert_eq!(read_as::<u8>(&path).unwrap().shape(), fewer.shape());
}

#[test]
fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels");
    for labels in [vec![1_u8, 2, 3], vec![4]] {
        let labels = Array::from(labels).into_dyn();
        write(&path, &labels, Compression::Gzip).unwrap();
        assert_eq!(read_as::<u8>(&path).unwrap(), labels);
        assert_eq!(entries(folder.path()), ["labels"]);
    }
    // A folder at the path: the rename fails, and the temporary file is removed.
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("content"), "").unwrap();
    let error = write(&taken, &Array::from(vec![1_u8]), Compression::None).unwrap_err();
    assert!(error.to_string().contains("cannot replace the file"), "{error}");
    assert_eq!(entries(folder.path()), ["labels", "taken"]);

    let error = write(folder.path().join("absent/labels"), &Array::from(vec![1_u8]), Compression::None).unwrap_err();
    assert!(error.to_string().contains("cannot create the file"), "{error}");
    assert!(write(folder.path().join(".."), &Array::from(vec![1_u8]), Compression::None).is_err());
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
