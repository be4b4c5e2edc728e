//! The prost codec with smaller buffers than tonic's default, to save memory per stream.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// In bytes. Each call allocates one buffer per direction, a stream keeps both, and they grow on demand. Most of the
/// kubelet's messages are smaller. tonic's default is 8 KiB.
const BUFFER_SIZE: usize = 1024;

/// In bytes. A stream sends its buffer when it reaches this size. Same as tonic's default.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// The codec of the generated clients and servers, set in `build.rs`.
#[derive(Debug)]
pub(crate) struct SmallBufferCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBufferCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBufferCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_SIZE, YIELD_THRESHOLD)
}
