//! Defines a shared struct together with the proof that it has no hidden padding and with its part of the schema hash.
//!
//! Must not know any particular struct.

/// Start value of a schema hash (FNV-1a offset basis).
pub(crate) const SEED: u32 = 0x811c_9dc5;

/// Adds one word to a schema hash (FNV-1a over the word's four bytes).
pub(crate) const fn fold(hash: u32, word: u32) -> u32 {
    let mut hash = hash;
    let mut shift = 0;
    while shift < 32 {
        hash = (hash ^ ((word >> shift) & 0xff)).wrapping_mul(0x0100_0193);
        shift += 8;
    }
    hash
}

/// Adds a field's name to a schema hash.
pub(crate) const fn fold_str(hash: u32, text: &str) -> u32 {
    let mut bytes = text.as_bytes();
    let mut hash = hash;
    while let [first, rest @ ..] = bytes {
        hash = fold(hash, *first as u32);
        bytes = rest;
    }
    hash
}

/// Declares a `repr(C)` struct for one concrete type or generic over the address, and adds for it
/// `SCHEMA` (hash of field names, sizes and offsets) and a compile-time check that its fields fill it exactly:
/// a padding byte would be uninitialised memory in a map key.
macro_rules! shared_struct {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $(<$address:ident : Address> for [$($concrete:ty),+])? {
            $( $(#[$field_meta:meta])* pub $field:ident : $type:ty, )+
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name $(<$address>)? {
            $( $(#[$field_meta])* pub $field : $type, )+
        }

        impl $(<$address: $crate::addr::Address>)? $name $(<$address>)? {
            /// Hash of the names, sizes and offsets of the fields; see `SCHEMA_HASH` at the crate's root.
            #[expect(clippy::cast_possible_truncation, reason = "no struct is 4 GiB large")]
            pub const SCHEMA: u32 = {
                let mut hash = $crate::layout::fold_str($crate::layout::SEED, stringify!($name));
                let mut sum = 0;
                $(
                    hash = $crate::layout::fold_str(hash, stringify!($field));
                    hash = $crate::layout::fold(hash, size_of::<$type>() as u32);
                    hash = $crate::layout::fold(hash, core::mem::offset_of!(Self, $field) as u32);
                    sum += size_of::<$type>();
                )+
                assert!(sum == size_of::<Self>(), concat!(stringify!($name), " has hidden padding"));
                hash
            };
        }

        shared_struct!(@pod $name $([$($concrete),+])?);
    };
    (@pod $name:ident [$($concrete:ty),+]) => {
        $( shared_struct!(@impl $name<$concrete>); )+
    };
    (@pod $name:ident) => { shared_struct!(@impl $name); };
    (@impl $type:ty) => {
        const _: u32 = <$type>::SCHEMA;
        // SAFETY: repr(C), made of integers only, and SCHEMA proves at compile time that there is no padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
