import ArgumentParser
import CLibc
import CProvider
import Registry
import SANShm

struct ProviderCheck: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "provider-check",
        abstract: "Run the conformance suite against a provider library, one row for each requirement.",
        discussion: """
            Loads the library as the switch would, starts it, and tries every entry between two companions of this process. \
            A row names the requirement of docs/wsd.md that it belongs to. The built-in provider is examined as `shm`. Exit \
            status: 0 it conforms, 1 it does not.

            EXAMPLES
              sanswitch provider-check build/examples/libexample_provider.so
              sanswitch provider-check shm
            """)

    @Option(
        help: ArgumentHelp("The address to use, instead of the provider's first or 127.0.0.1.", valueName: "address"))
    var address: String?

    @Argument(help: ArgumentHelp("The library, or the name of a built-in provider.", valueName: "library"))
    var library: String

    func run() throws {
        var report = ConformanceReport()
        if let startup = startup(&report) {
            let suite = ConformanceSuite(startup: startup, address: address)
            suite.run(&report)
        }
        report.print(library)
        if report.failures > 0 { throw ExitCode(1) }
    }

    private func startup(_ report: inout ConformanceReport) -> ProviderTables.Startup? {
        if library == "shm" { return shmStartup }
        let (symbol, refusal) = ProviderTables.symbol(of: absolute(library))
        let reason = refusal.map { "\($0.cause.text)\($0.cause == .noLibrary ? ": \(loaderError())" : "")" }
        report.row("M1", "the library loads and exports san_startup_ex", reason)
        return symbol.map { symbol in { symbol($0, $1, $2, $3, $4) } }
    }
}

/// What ld.so last had to say.
func loaderError() -> String { dlerror().map { printable(String(cString: $0)) } ?? "unknown error" }

/// The rows of the conformance suite.
struct ConformanceReport {
    private var rows: [(mark: String, requirement: String, text: String)] = []
    private(set) var failures = 0

    /// `failure` is what was seen instead; nil: as required.
    mutating func row(_ requirement: String, _ text: String, _ failure: String?) {
        rows.append((failure == nil ? "ok  " : "FAIL", requirement, failure.map { "\(text): \($0)" } ?? text))
        if failure != nil { failures += 1 }
    }

    /// Something optional that the provider does not have.
    mutating func absent(_ requirement: String, _ text: String) { rows.append(("none", requirement, text)) }

    func print(_ library: String) {
        let passed = rows.count { $0.mark == "ok  " }
        Swift.print(
            failures == 0
                ? "\(library) conforms: \(passed) requirements met."
                : "\(library) does not conform: \(failures) of \(rows.count) requirements are not met.")
        Swift.print("")
        for row in rows {
            let padding = String(repeating: " ", count: max(0, 4 - row.requirement.count))
            Swift.print("  \(row.mark)  \(row.requirement)\(padding)  \(row.text)")
        }
    }
}
