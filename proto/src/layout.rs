//! Compile-time proof that a structure has the layout its documentation states.

/// One field of a fixed layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name of the field, as in the structure.
    pub name: &'static str,
    /// Distance from the first byte of the structure, in bytes.
    pub offset: usize,
    /// Size, in bytes.
    pub size: usize,
    /// What it means.
    pub meaning: &'static str,
}

/// A fixed layout: what `docs/protocol.md` prints as a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name of the structure.
    pub name: &'static str,
    /// Size, in bytes. The fields cover it without a gap.
    pub size: usize,
    /// The fields, by offset.
    pub fields: &'static [Field],
}

/// Declares a fixed layout: the structure, its zerocopy derives, its [`Layout`] table, and compile-time assertions that
/// size, alignment and every offset are as written and that no byte is left over between fields.
macro_rules! layout {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident : $size:literal {
            $( $offset:literal $field:ident : $type:ty = $meaning:literal, )+
        }
    ) => {
        $(#[$attribute])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $( #[doc = $meaning] pub $field: $type, )+
        }

        impl $name {
            /// Size of the structure, in bytes.
            pub const SIZE: usize = $size;

            /// The layout as data, for documentation and tests.
            pub const LAYOUT: crate::layout::Layout = crate::layout::Layout {
                name: stringify!($name),
                size: $size,
                fields: &[ $( crate::layout::Field {
                    name: stringify!($field),
                    offset: $offset,
                    size: core::mem::size_of::<$type>(),
                    meaning: $meaning,
                }, )+ ],
            };
        }

        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size);
            assert!(core::mem::align_of::<$name>() == 1);
            $( assert!(core::mem::offset_of!($name, $field) == $offset); )+
            let fields = $name::LAYOUT.fields;
            let mut end = 0;
            let mut index = 0;
            while index < fields.len() {
                assert!(fields[index].offset == end, "a gap or an overlap between fields");
                end += fields[index].size;
                index += 1;
            }
            assert!(end == $size);
        };
    };
}

pub(crate) use layout;
