//! Uploads and versions.

use serde_json::json;

use super::house::{House, digest};

#[tokio::test]
async fn versions_are_uploaded_compared_and_deleted() {
    let house = House::furnished().await;
    let (first, second) = (digest(b"plugin a b").to_string(), digest(b"plugin b c").to_string());
    house.put("/api/v1/subscriptions/s", House::subscription()).await.expect(201);

    let again =
        house.post("/api/v1/plugins/p/versions", &[("content-type", "application/wasm")], "plugin a b").await;
    assert_eq!(again.expect(200).json()["created"], false);
    let upload = house.post("/api/v1/plugins/p/versions", &[], "plugin b c").await.expect(201).json();
    assert_eq!(
        upload,
        json!({
            "plugin": "p", "digest": second, "created": true, "size_bytes": 10, "world": "test:world@1.0.0",
            "imports": ["b", "c"], "compile_ms": 1,
            "about": {}, "signed_by": null, "denied": [], "needs": [], "samples": null,
            "compared": [{"subscription": "s", "version": first, "new_imports": ["c"]}],
        })
    );

    let more = "plugin b wasi:clocks/wall-clock@0.2.0 wasi:sockets/tcp@0.2.0";
    let upload = house.post("/api/v1/plugins/p/versions", &[], more).await.expect(201).json();
    let third = upload["digest"].as_str().unwrap().to_owned();
    assert_eq!(upload["denied"][0]["grant"], "clock");
    assert_eq!((&upload["denied"][1]["grant"], &upload["denied"][2]), (&json!(null), &json!(null)));
    let words = &upload["needs"][0];
    assert_eq!(
        (&words["subscription"], words["words"].as_array().unwrap().len()),
        (&json!("s"), 2),
        "{words}"
    );
    assert!(words["words"][0].as_str().unwrap().contains("not granted (grants.clock)"), "{words}");
    house.delete(&format!("/api/v1/plugins/p/versions/{third}")).await.expect(204);

    let plugin = house.get("/api/v1/plugins/p").await.expect(200).json();
    let versions = plugin["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 2);
    assert_eq!((&versions[0]["digest"], &versions[0]["used_by"]), (&json!(first), &json!(["s"])));
    assert_eq!((&versions[1]["digest"], &versions[1]["used_by"]), (&json!(second), &json!([])));
    assert!(versions[1]["uploaded_at_ms"].as_u64().unwrap() > 0);
    assert_eq!(house.get("/api/v1/plugins").await.expect(200).json()["items"], json!([plugin]));

    house.delete(&format!("/api/v1/plugins/p/versions/{second}")).await.expect(204);
    house.delete(&format!("/api/v1/plugins/p/versions/{second}")).await.problem(404, "not-found");
    house.delete("/api/v1/plugins/p/versions/sha256:0").await.problem(422, "invalid-definition");
    house.close().await;
}

#[tokio::test]
async fn bytes_that_are_no_plugin_are_refused() {
    let house = House::new().await;
    house.post("/api/v1/plugins/p/versions", &[], "nonsense").await.problem(422, "invalid-plugin");
    house.post("/api/v1/plugins/p/versions", &[], "").await.problem(422, "invalid-plugin");
    let form = ("content-type", "multipart/form-data; boundary=x");
    house.post("/api/v1/plugins/p/versions", &[form], "plugin").await.problem(415, "unsupported-media-type");
    house.get("/api/v1/plugins/p").await.problem(404, "not-found");
    house.close().await;
}

#[tokio::test]
async fn a_failure_of_the_host_is_told_without_its_details() {
    let house = House::furnished().await;
    house.post("/api/v1/plugins/p/versions", &[], "plugin broken").await.expect(201);
    let mut body = House::subscription();
    body["version"] = json!(digest(b"plugin broken").to_string());
    let detail = house.put("/api/v1/subscriptions/s", body).await.problem(500, "internal");
    assert!(!detail.contains("secret"), "{detail}");
    house.close().await;
}
