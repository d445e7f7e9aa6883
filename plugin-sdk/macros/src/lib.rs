//! The `#[handler]` attribute of `brolly-plugin`, which re-exports and documents it; not to be used
//! on its own. It knows the names in `brolly_plugin::__private` and nothing else of the SDK.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, FnArg, ItemFn, spanned::Spanned};

/// Makes a function the handler of this plugin.
///
/// The function takes one `Delivery<T>` and returns `Result<(), Failure>`. It stays what it is, so
/// that tests can call it; for `wasm32` it is exported to the host as well. A crate has one handler.
///
/// ```text
/// #[handler]
/// fn handle(delivery: Delivery<Order>) -> Result<(), Failure> { … }
/// ```
#[proc_macro_attribute]
pub fn handler(attribute: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let item = TokenStream::from(item);
    let expanded = match expand(attribute.into(), item.clone()) {
        Ok(expanded) => expanded,
        Err(error) => {
            // The function is kept, so that the one mistake does not show up as many.
            let error = error.into_compile_error();
            quote! { #item #error }
        }
    };
    expanded.into()
}

fn expand(attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    if !attribute.is_empty() {
        return Err(Error::new_spanned(attribute, "#[handler] takes no arguments"));
    }
    let function: ItemFn = syn::parse2(item.clone())
        .map_err(|error| Error::new(error.span(), format!("#[handler] goes before a function: {error}")))?;
    check(&function)?;
    let name = &function.sig.ident;
    Ok(quote! {
        // A handler owns its delivery, whether or not it takes it apart.
        #[allow(clippy::needless_pass_by_value)]
        #item

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Plugin;

            impl ::brolly_plugin::__private::bindings::Guest for Plugin {
                fn handle(
                    delivery: ::brolly_plugin::__private::bindings::Delivery,
                ) -> ::core::result::Result<(), ::brolly_plugin::__private::bindings::Failure> {
                    ::brolly_plugin::__private::run(delivery, #name)
                }
            }

            ::brolly_plugin::__private::bindings::export!(
                Plugin with_types_in ::brolly_plugin::__private::bindings
            );
        };

        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            #[allow(dead_code)]
            fn signature() {
                ::brolly_plugin::__private::assert_handler(#name);
            }
        };
    })
}

/// Finds what would otherwise be an error in code that nobody wrote.
fn check(function: &ItemFn) -> syn::Result<()> {
    let signature = &function.sig;
    let refuse = |span: proc_macro2::Span, why: &str| {
        Err(Error::new(
            span,
            format!("{why}; a handler is `fn handle(delivery: Delivery<T>) -> Result<(), Failure>`"),
        ))
    };
    if let Some(token) = &signature.asyncness {
        return refuse(token.span(), "a handler cannot be async, there is nothing to wait for");
    }
    if let Some(token) = &signature.unsafety {
        return refuse(token.span(), "a handler cannot be unsafe");
    }
    if !signature.generics.params.is_empty() {
        return refuse(signature.generics.span(), "a handler cannot be generic");
    }
    match (signature.inputs.len(), signature.inputs.first()) {
        (1, Some(FnArg::Typed(_))) => Ok(()),
        (1, Some(FnArg::Receiver(receiver))) => refuse(receiver.span(), "a handler takes no self"),
        _ => refuse(signature.paren_token.span.join(), "a handler takes one argument"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(attribute: TokenStream, item: TokenStream, expect: Result<(), &str>) {
        let expanded = expand(attribute, item.clone()).map(drop).map_err(|error| error.to_string());
        match (expanded, expect) {
            (Err(error), Err(part)) => assert!(error.contains(part), "{item}: {error}"),
            (expanded, expect) => assert_eq!(expanded, expect.map_err(str::to_owned), "{item}"),
        }
    }

    #[test]
    fn mistakes_are_found_before_the_compiler_finds_them_elsewhere() {
        let good = quote! { fn handle(delivery: Delivery<Order>) -> Result<(), Failure> { Ok(()) } };
        check(quote! {}, good.clone(), Ok(()));
        check(
            quote! {},
            quote! { pub fn any_name(Delivery { payload, .. }: Delivery) -> R { Ok(()) } },
            Ok(()),
        );
        check(quote! { retry }, good, Err("takes no arguments"));
        check(quote! {}, quote! { struct Handler; }, Err("goes before a function"));
        check(quote! {}, quote! { async fn handle(d: Delivery) {} }, Err("cannot be async"));
        check(quote! {}, quote! { unsafe fn handle(d: Delivery) {} }, Err("cannot be unsafe"));
        check(quote! {}, quote! { fn handle<T>(d: Delivery<T>) {} }, Err("cannot be generic"));
        check(quote! {}, quote! { fn handle() {} }, Err("takes one argument"));
        check(quote! {}, quote! { fn handle(d: Delivery, e: u8) {} }, Err("takes one argument"));
        check(quote! {}, quote! { fn handle(&self) {} }, Err("takes no self"));
    }

    #[test]
    fn the_function_stays_and_is_exported_for_wasm_only() {
        let item = quote! { fn handle(delivery: Delivery) -> Result<(), Failure> { Ok(()) } };
        let Ok(expanded) = expand(quote! {}, item.clone()) else { panic!("it expands") };
        let expanded = expanded.to_string();
        assert!(expanded.contains(&item.to_string()), "{expanded}");
        let export = expanded.find("export !").unwrap();
        let guard = expanded.find("# [cfg (target_arch = \"wasm32\")]").unwrap();
        assert!(guard < export, "{expanded}");
    }
}
