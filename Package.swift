// swift-tools-version: 6.1
// The same sources are built twice. `SANSWITCH_EMBEDDED=1` builds the shipped library in Embedded Swift (libc is all it
// needs); without it everything is ordinary Swift, for the tools, the tests and the sanitizers. See docs/architecture.md.
import PackageDescription

let isEmbedded = Context.environment["SANSWITCH_EMBEDDED"] == "1"

// Every C module sees libc's headers in the same way, or the importer refuses to merge them.
let headers: [SwiftSetting] = [.unsafeFlags(["-Xcc", "-D_GNU_SOURCE"])]
let swiftSettings: [SwiftSetting] =
    headers
    + (isEmbedded
        ? [
            .enableExperimentalFeature("Embedded"), .enableExperimentalFeature("Extern"),
            .unsafeFlags(["-wmo", "-Ounchecked", "-Xfrontend", "-function-sections"]),
        ]
        : [])

func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

// Never upward: each module names only those above it.
var targets: [Target] = [
    .target(name: "CLibc", cSettings: [.unsafeFlags(["-O2", "-fPIC", "-ftls-model=initial-exec"])]),
    .target(name: "CProvider"),
    .target(name: "CVerbs", cSettings: [.unsafeFlags(["-O2", "-fPIC", "-D_GNU_SOURCE"])]),
    module("Libc", ["CLibc"]),
    module("SessionState", ["Libc"]),
    module("Wire", ["Libc"]),
    module("Configuration", ["Libc"]),
    module("Registry", ["CLibc", "CProvider", "Libc"]),
    module("SANShm", ["CProvider", "Libc", "Wire"]),
    module("SANRdma", ["CProvider", "CVerbs", "Libc", "Wire"]),
    module(
        "Switch",
        [
            "CLibc", "CProvider", "Configuration", "Libc", "Registry", "SANRdma", "SANShm", "SessionState",
            "Wire",
        ]),
]
var products: [Product] = []
var dependencies: [Package.Dependency] = []

if isEmbedded {
    targets.append(
        .target(
            name: "preload", dependencies: ["CLibc", "Switch"], path: "preload", exclude: ["exports.map"],
            cSettings: [.unsafeFlags(["-O2", "-fPIC", "-ftls-model=initial-exec"])],
            linkerSettings: [
                .unsafeFlags([
                    "-Xlinker", "--version-script=\(Context.packageDirectory)/preload/exports.map", "-Xlinker",
                    "--gc-sections", "-Xlinker", "-soname=libsanswitch.so",
                    "-Xlinker", "-z", "-Xlinker", "now",
                ])
            ]))
    products.append(.library(name: "sanswitch", type: .dynamic, targets: ["preload", "Switch"]))
    // For the contract test in Tests/rdma only.
    targets.append(
        .target(
            name: "RdmaProvider", dependencies: ["CProvider", "SANRdma"], path: "Tests/rdma/provider",
            swiftSettings: swiftSettings))
    products.append(.library(name: "rdma-provider", type: .dynamic, targets: ["RdmaProvider"]))
} else {
    dependencies.append(.package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"))
    targets += [
        .executableTarget(
            name: "sanswitch",
            dependencies: [
                "CProvider", "Configuration", "Libc", "Registry", "SANRdma", "SANShm", "SessionState", "Wire",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], swiftSettings: swiftSettings),
        .testTarget(name: "ConfigurationTests", dependencies: ["Configuration", "Libc"], swiftSettings: swiftSettings),
        .testTarget(name: "WireTests", dependencies: ["Wire"], swiftSettings: swiftSettings),
        .testTarget(name: "RegistryTests", dependencies: ["Registry"], swiftSettings: swiftSettings),
        .testTarget(
            name: "SwitchTests", dependencies: ["Switch", "SANShm", "CLibc", "Registry"], swiftSettings: swiftSettings),
    ]
}

let package = Package(name: "sanswitch", products: products, dependencies: dependencies, targets: targets)
