"""Images a second of the chains of benches/chains.toml in Albumentations, torchvision and Keras, on one core.

    pip install albumentations torch torchvision      (and, in another environment, tensorflow-cpu keras)
    taskset -c 0 python peers.py ../../../data/fashion-mnist

Every library that can be imported is measured as its documentation uses it: Albumentations and torchvision
v2 image by image on uint8, as in a data loader's worker; Keras layers on batches of 256, compiled. A figure
is the best of as many rounds as fit in two seconds, rounds of 16 images or one batch, so that other work on
the machine changes it little; `cargo bench --bench chains -- best` measures this crate likewise.
"""
import gzip
import os
import sys
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[name] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np

with gzip.open(os.path.join(sys.argv[1], "t10k-images-idx3-ubyte.gz")) as file:
    images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)


def measure(library, chain, batch, run):
    run()
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < 2:
        begin = time.perf_counter()
        run()
        best = min(best, (time.perf_counter() - begin) / batch)
    print(f"{library:16} {chain:20} {1 / best:10.0f} images/s", flush=True)


def albumentations():
    import albumentations as A
    import cv2

    cv2.setNumThreads(1)
    chains = {
        "flip_shift_erasing": [A.HorizontalFlip(), A.Pad(2), A.RandomCrop(28, 28), A.Erasing()],
        "affine": [A.Affine(scale=(0.9, 1.1), translate_percent=(-0.1, 0.1), rotate=(-10, 10), shear=(-5, 5), p=1)],
        "rotation": [A.Rotate((-10, 10), p=1)],
        "grid_distortion": [A.GridDistortion(p=1)],
        "elastic": [A.ElasticTransform(alpha=34, sigma=4, noise_distribution="uniform", p=1)],
    }
    for name, transforms in chains.items():
        compose = A.Compose(transforms)
        some = [np.ascontiguousarray(image) for image in images[:16]]
        measure("albumentations", name, 16, lambda: [compose(image=image)["image"] for image in some])


def torchvision():
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    bilinear = v2.InterpolationMode.BILINEAR
    chains = {
        "flip_shift_erasing": [v2.RandomHorizontalFlip(), v2.RandomCrop(28, padding=2), v2.RandomErasing()],
        "affine": [v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), 5, interpolation=bilinear)],
        "rotation": [v2.RandomRotation(10, interpolation=bilinear)],
        "elastic": [v2.ElasticTransform(alpha=34.0, sigma=4.0)],
    }
    some = list(torch.from_numpy(images[:16].transpose(0, 3, 1, 2).copy()))
    for name, transforms in chains.items():
        compose = v2.Compose(transforms)
        measure("torchvision v2", name, 16, lambda: [compose(image) for image in some])


def keras():
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    layers, shift = keras.layers, 2 / 28
    zero = {"fill_mode": "constant"}
    chains = {
        "flip_shift_erasing": [
            layers.RandomFlip("horizontal"),
            layers.RandomTranslation(shift, shift, interpolation="nearest", **zero),
            layers.RandomErasing(factor=0.5, scale=(0.02, 0.33), fill_value=0, value_range=(0, 255)),
        ],
        # There is no layer for all four, so the image is interpolated four times.
        "affine": [
            layers.RandomRotation(10 / 360, **zero),
            layers.RandomTranslation(0.1, 0.1, **zero),
            layers.RandomZoom((-0.1, 0.1), **zero),
            layers.RandomShear(0.09, 0.09, **zero),
        ],
        "rotation": [layers.RandomRotation(10 / 360, **zero)],
        "elastic": [layers.RandomElasticTransform(factor=1.0, scale=1.0, value_range=(0, 255))],
    }
    some = tf.constant(images[:256].astype(np.float32))
    for name, chain in chains.items():

        @tf.function
        def run(batch):
            for layer in chain:
                batch = layer(batch, training=True)
            return batch

        measure("keras layers", name, 256, lambda: run(some).numpy())


for library in (albumentations, torchvision, keras):
    try:
        library()
    except ImportError as error:
        print(f"{library.__name__}: not measured, {error}")
