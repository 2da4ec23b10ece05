//! [`Network::whiten`]: the initial weights of a first layer that whitens the images.

use super::Network;
use crate::exec::images::Images;
use crate::params::Params;
use crate::params::entry::ParamEntry;
use crate::params::whitening::Patches;
use crate::spec::error::{LayerProblem, ModelError};
use crate::spec::init::Init;
use crate::spec::layer::LayerSpec;

impl Network {
    /// Whether a layer's initial weights follow from images: [`Network::whiten`] gives it them.
    pub fn needs_whitening(&self) -> bool {
        matches!(self.spec.layers.first(), Some(LayerSpec::Conv2d { init: Init::Whitening, .. }))
    }

    /// Gives a first layer with [`Init::Whitening`] its initial weights, from the patches of these images as the network sees
    /// them. A network without such a layer stays as it is. The bits depend on the images alone. A few thousand images suffice.
    ///
    /// ```
    /// use selvedge_model::{BuildOptions, ModelSpec, Network, Precision, Threads};
    /// let spec: ModelSpec = toml::from_str(r#"
    ///     classes = 10
    ///     input = { height = 8, width = 8 }
    ///     layers = [
    ///         { layer = "conv2d", filters = 16, kernel = 3, init = "whitening", frozen = true },
    ///         { layer = "gelu" },
    ///         { layer = "global_avg_pool" },
    ///         { layer = "dense", units = "classes" },
    ///     ]
    /// "#)?;
    /// let threads = Threads::new(1)?;
    /// let mut network = Network::build(&spec, &BuildOptions { seed: 1, max_batch: 32, precision: Precision::F32, threads })?;
    /// let images: Vec<u8> = (0..64u32 * 64).map(|i| (i * i % 251) as u8).collect();
    /// network.whiten(&images)?;
    ///
    /// let weights = network.snapshot().params; // [3, 3, 1, 16] comes first
    /// assert_eq!(weights[0], -weights[8]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ModelError::Layer`] if the images have fewer patches than a patch has numbers.
    ///
    /// # Panics
    /// If the images do not fit the spec.
    pub fn whiten<'a>(&mut self, images: impl Into<Images<'a>>) -> Result<(), ModelError> {
        self.whiten_by(images.into())
    }

    fn whiten_by(&mut self, images: Images<'_>) -> Result<(), ModelError> {
        let count = self.count(images);
        let Some(LayerSpec::Conv2d { filters, kernel, init: Init::Whitening, .. }) = self.spec.layers.first() else {
            return Ok(());
        };
        let patches = Patches { images, input: &self.spec.input, kernel: *kernel };
        let layer = &self.shape.layers[0];
        if patches.count() < patches.dimensions() {
            return Err(ModelError::Layer {
                layer: layer.name.clone(),
                input: layer.input.logical,
                problem: LayerProblem::WhiteningImages {
                    images: count,
                    patches: patches.count(),
                    kernel: *kernel,
                    dimensions: patches.dimensions(),
                },
            });
        }
        let weights = self.threads.install(|| patches.filters(*filters));
        let Params { values, entries, .. } = &mut self.state.params;
        let ParamEntry { layout, range, .. } = &entries[layer.params.start];
        layout.pack(&weights, &mut values[range.clone()]);
        self.stale = true;
        Ok(())
    }
}
