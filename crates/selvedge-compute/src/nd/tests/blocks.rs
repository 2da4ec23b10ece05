//! Arrays to blocks and back.

use half::bf16;
use ndarray::{Array4, s};

use super::*;
use crate::nd::BlockTensor;
use crate::simd::Element;
use crate::test_support::cpus;
use crate::{BLOCK, BlockShape};

const SIZES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (5, 3, 1), (3, 17, 3), (2, 33, 16), (4, 5, 20), (1, 2, 35), (3, 2, 64)];

/// Where the layout's documentation says that an element is.
fn place(shape: &BlockShape, (image, y, x, c): (usize, usize, usize, usize)) -> usize {
    image / BLOCK * shape.len() + shape.offset(y, x) + shape.channel(c) + image % BLOCK * shape.plane()
}

fn every_element_has_its_place<E: Element + PartialEq>() {
    for ((height, width, channels), images) in SIZES.into_iter().flat_map(|size| IMAGES.map(|images| (size, images))) {
        let x = numbers(images as u64, (images, height, width, channels)).mapv(E::from_f32);
        let what = format!("{:?}", x.dim());
        for (padded, shape) in
            [(true, BlockShape::new(height, width, channels)), (false, BlockShape::input(height, width, channels))]
        {
            let pack = |x: &Array4<E>| match padded {
                true => BlockTensor::from_array(x.view()).unwrap(),
                false => BlockTensor::from_input(x.view()).unwrap(),
            };
            let blocks = pack(&x);
            assert_eq!((blocks.shape(), blocks.images(), blocks.count()), (shape, images, images.div_ceil(BLOCK)));
            let mut want = vec![E::default(); blocks.count() * shape.len()];
            x.indexed_iter().for_each(|(at, &x)| want[place(&shape, at)] = x);
            assert!(blocks.as_slice() == want, "{what}, padded: {padded}");
            assert!(blocks.to_array() == x, "{what}, padded: {padded}");
            for (name, other) in layouts(&x) {
                assert!(pack(&other).as_slice() == want, "{what}, padded: {padded}, {name}");
                let mut to = other.mapv(|_| E::default());
                let mut to = to.view_mut();
                to.fill(E::from_f32(7.0));
                blocks.copy_to(to.view_mut()).unwrap();
                assert!(to == x, "{what}, padded: {padded}, to {name}");
            }
        }
    }
}

#[test]
fn every_element_of_f32_has_its_place() {
    every_element_has_its_place::<f32>();
}

#[test]
fn every_element_of_bf16_has_its_place() {
    every_element_has_its_place::<bf16>();
}

/// What lies between the elements of a view is not written.
#[test]
fn unpacking_writes_the_view_alone() {
    let x = numbers(1, (40, 3, 5, 18));
    let blocks = BlockTensor::from_array(x.view()).unwrap();
    let mut larger = Array4::from_elem((42, 9, 5, 40), 7.0);
    blocks.copy_to(larger.slice_mut(s![1..41, ..;3, .., 2..38;2])).unwrap();
    assert_eq!(larger.slice(s![1..41, ..;3, .., 2..38;2]), x);
    larger.slice_mut(s![1..41, ..;3, .., 2..38;2]).fill(7.0);
    assert!(larger.iter().all(|&x| x == 7.0));
}

#[test]
fn threads_share_the_rows() {
    let x = numbers(1, (33, 40, 40, 3));
    let nchw = &layouts(&x)[0].1;
    let blocks = on_any_threads("pack", || BlockTensor::from_array(nchw.view()).unwrap().as_slice().to_vec());
    assert_eq!(blocks, BlockTensor::from_array(x.view()).unwrap().as_slice());
    let blocks = BlockTensor::from_array(x.view()).unwrap();
    assert_eq!(on_any_threads("unpack", || blocks.to_array()), x);
}

#[test]
fn bytes_become_what_they_say() {
    for (cpu, (height, width, channels)) in cpus().into_iter().flat_map(|cpu| SIZES.map(|size| (cpu, size))) {
        for images in IMAGES {
            let bytes = numbers(3, (images, height, width, channels)).mapv(|x| ((x + 2.0) * 63.0) as u8);
            let want = bytes.mapv(|byte| f64::from(byte) * 0.5 - 3.0);
            for (name, bytes) in layouts(&bytes) {
                let blocks = BlockTensor::<f32>::from_bytes(cpu, bytes.view(), 0.5, -3.0).unwrap();
                assert_eq!(blocks.shape(), BlockShape::input(height, width, channels));
                assert_close(&named(cpu, (name, bytes.dim())), &blocks.to_array(), &want, 1e-6);
            }
        }
    }
}

#[test]
fn empty_batches_and_images() {
    for dim in [(0, 3, 3, 5), (7, 0, 3, 5), (7, 3, 0, 5), (7, 3, 3, 0)] {
        let x = Array4::<f32>::zeros(dim);
        for blocks in [BlockTensor::from_array(x.view()), BlockTensor::from_input(x.view())] {
            assert_eq!(blocks.unwrap().to_array(), x);
        }
        let bytes = Array4::<u8>::zeros(dim);
        assert_eq!(BlockTensor::<f32>::from_bytes(cpus()[0], bytes.view(), 1.0, 0.0).unwrap().to_array(), x);
    }
}

#[test]
fn the_last_block_may_be_partial() {
    let mut blocks = BlockTensor::<f32>::zeroed(BlockShape::new(2, 3, 4), 70).unwrap();
    let valid: Vec<usize> = (0..4).map(|block| blocks.valid(block)).collect();
    assert_eq!((blocks.count(), blocks.iter().len(), valid), (3, 3, vec![32, 32, 6, 0]));
    blocks.iter_mut().enumerate().for_each(|(number, block)| block.fill(number as f32));
    assert!(blocks.block(2).iter().all(|&x| x == 2.0));
    assert_eq!(blocks.to_array()[[69, 1, 2, 3]], 2.0);
}
