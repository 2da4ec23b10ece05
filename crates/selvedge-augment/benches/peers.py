"""Images per second of the chains of benches/chains.toml in Albumentations, torchvision and Keras, on one core.

    pip install albumentations==2.0.8 opencv-python-headless torch torchvision
    pip install tensorflow-cpu==2.19.1        (in a separate environment; includes Keras 3)
    taskset -c 0 python peers.py ../../../data/fashion-mnist [LIBRARY]

Measures every library that can be imported, on one thread, in rounds of 256 images of the test set. A figure is the best
of as many rounds as fit into two seconds, so that other work on the machine changes it little. `cargo bench --bench chains
-- best` measures this crate the same way. Chains that a library does not have are skipped.

albumentations        image by image: arrays of uint8, [height, width, channel], in a `Compose`.
torchvision           v2 on tensors of uint8, image by image, as in the worker of a data loader: a transform draws once
                      per call, so only this gives each image its own parameters.
torchvision one draw  the same transforms on the batch as one tensor: one flip, shift or angle for all 256 images. That
                      is less work, and shown as an upper bound.
keras                 layers on the batch as one tensor of float32, with parameters drawn for each image, in a compiled
                      function.
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

BATCH = 256
SECONDS = 2

with gzip.open(os.path.join(sys.argv[1], "t10k-images-idx3-ubyte.gz")) as file:
    images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)[:BATCH]


def measure(library, chain, run):
    run()
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    print(f"{library:22} {chain:20} {BATCH / best:10.0f} images/s", flush=True)


def albumentations():
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)
    chains = {
        "flip_shift_erasing": [A.HorizontalFlip(), A.Pad(2), A.RandomCrop(28, 28), A.Erasing()],
        "alternating_flip": [A.HorizontalFlip()],
        "translate_reflect": [A.Pad(2, border_mode=cv2.BORDER_REFLECT_101), A.RandomCrop(28, 28)],
        "random_erasing": [A.Erasing(p=1)],
        "rotate90": [A.RandomRotate90(p=1)],
        "affine": [A.Affine(scale=(0.9, 1.1), translate_percent=(-0.1, 0.1), rotate=(-10, 10), shear=(-5, 5), p=1)],
        "rotation": [A.Rotate((-10, 10), border_mode=cv2.BORDER_CONSTANT, p=1)],
        "optical_distortion": [A.OpticalDistortion(p=1)],
        "grid_distortion": [A.GridDistortion(p=1)],
        "elastic": [A.ElasticTransform(alpha=34, sigma=4, noise_distribution="uniform", p=1)],
        "blur": [A.Blur(p=1)],
        "brightness": [A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0, p=1)],
    }
    some = [np.ascontiguousarray(image) for image in images]
    for name, transforms in chains.items():
        compose = A.Compose(transforms)
        measure("albumentations", name, lambda: [compose(image=image)["image"] for image in some])


def torchvision():
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    bilinear = v2.InterpolationMode.BILINEAR
    chains = {
        "flip_shift_erasing": [v2.RandomHorizontalFlip(), v2.RandomCrop(28, padding=2), v2.RandomErasing()],
        "alternating_flip": [v2.RandomHorizontalFlip()],
        "translate_reflect": [v2.RandomCrop(28, padding=2, padding_mode="reflect")],
        "random_erasing": [v2.RandomErasing(p=1)],
        "affine": [v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), (-5, 5, -5, 5), interpolation=bilinear)],
        "rotation": [v2.RandomRotation(10, interpolation=bilinear)],
        "elastic": [v2.ElasticTransform(alpha=34.0, sigma=4.0)],
        "brightness": [v2.ColorJitter(brightness=0.2)],
        "rand_augment": [v2.RandAugment()],
    }
    whole = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    some = list(whole)
    for name, transforms in chains.items():
        compose = v2.Compose(transforms)
        measure("torchvision", name, lambda: torch.stack([compose(image) for image in some]))
        measure("torchvision one draw", name, lambda: compose(whole))
    # The same transform on the whole batch, with one draw.
    cutmix, labels = v2.CutMix(num_classes=10), torch.arange(BATCH) % 10
    measure("torchvision", "cutmix", lambda: cutmix(whole, labels))


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
        "alternating_flip": [layers.RandomFlip("horizontal")],
        "translate_reflect": [layers.RandomTranslation(shift, shift, interpolation="nearest", fill_mode="reflect")],
        "random_erasing": [
            layers.RandomErasing(factor=1.0, scale=(0.02, 0.33), fill_value=0, value_range=(0, 255)),
        ],
        # No layer does all four, so the image is interpolated four times.
        "affine": [
            layers.RandomRotation(10 / 360, **zero),
            layers.RandomTranslation(0.1, 0.1, **zero),
            layers.RandomZoom((-0.1, 0.1), **zero),
            layers.RandomShear(0.09, 0.09, **zero),
        ],
        "rotation": [layers.RandomRotation(10 / 360, **zero)],
        # A different parametrisation, so a different transformation.
        "elastic": [layers.RandomElasticTransform(factor=1.0, scale=1.0, value_range=(0, 255))],
        "brightness": [layers.RandomBrightness(0.2, value_range=(0, 255))],
        "rand_augment": [layers.RandAugment(value_range=(0, 255), num_ops=2, factor=0.3)],
    }
    some = tf.constant(images.astype(np.float32))
    for name, chain in chains.items():

        @tf.function
        def run(batch):
            for layer in chain:
                batch = layer(batch, training=True)
            return batch

        try:
            measure("keras", name, lambda: run(some).numpy())
        except Exception as error:  # A layer may refuse images of one channel.
            print(f"keras                  {name:20} not measured: {str(error).splitlines()[0]}", flush=True)


for library in (albumentations, torchvision, keras):
    if len(sys.argv) > 2 and sys.argv[2] != library.__name__:
        continue
    try:
        library()
    except ImportError as error:
        print(f"{library.__name__}: not measured, {error}")
