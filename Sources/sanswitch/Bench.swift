import ArgumentParser
import CLibc
import Glibc

struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Compare plain TCP, Unix sockets and the switch on this machine, in one run.",
        discussion: """
            Ping-pong, bulk by write size, connection rate, many connections, idle connections, iperf3, redis, nginx: medians, \
            p50, p99 and p99.9, processor time, and ratios to TCP. All sides run in turn, each after a warm-up. Needs python3, \
            and of the real programs those that are installed. Minutes; --quick takes 45 seconds at most.

            EXAMPLES
              sanswitch bench --quick
              sanswitch bench --html report.html --json report.json
              sanswitch bench --only pingpong --only bulk
            """)

    static let groups = ["pingpong", "bulk", "connect", "many", "idle", "iperf3", "redis", "nginx"]

    @Flag(help: "At most 45 seconds; the numbers wobble more.")
    var quick = false

    @Option(
        help: ArgumentHelp("One group (may be repeated): \(groups.joined(separator: ", ")).", valueName: "name"),
        completion: .list(groups))
    var only: [String] = []

    @Option(
        help: ArgumentHelp("Write every single measurement, and the medians.", valueName: "file"), completion: .file())
    var json: String?

    @Option(
        help: ArgumentHelp("Write one page with charts and tables that opens without network.", valueName: "file"),
        completion: .file())
    var html: String?

    @Option(
        help: ArgumentHelp(
            "Compare with the least ratios in a file; exit status 1 when one does not hold.", valueName: "file"),
        completion: .file())
    var check: String?

    func validate() throws {
        for name in only where !Self.groups.contains(name) {
            throw ValidationError("there is no group \(name); there are: \(Self.groups.joined(separator: ", "))")
        }
    }

    func run() throws {
        guard let script = Self.script else {
            warn("the benchmark's programs are not beside this one: install them with it, or run it where it was built")
            throw ExitCode(1)
        }
        guard let library = Library.find(), let tool = readLink("/proc/self/exe") else {
            warn("\(Library.name) not found: run `make build` first")
            throw ExitCode(1)
        }
        // The measured sides are plain or switched as they say, whatever this shell's environment says.
        unsetenv("LD_PRELOAD")
        // Nothing is left where the package lies.
        setenv("PYTHONDONTWRITEBYTECODE", "1", 1)
        setenv("BENCH_LIBRARY", library, 1)
        setenv("BENCH_TOOL", tool, 1)
        var words = ["/usr/bin/env", "python3", script] + (quick ? ["--quick"] : [])
        for (option, value) in [("--json", json), ("--html", html), ("--check", check)] {
            if let value { words += [option, value] }
        }
        words += only.flatMap { ["--only", $0] }
        execv(words[0], words.map { strdup($0) } + [nil])
        warn("\(words[0]): \(describe(libc_errno()))")
        throw ExitCode(1)
    }

    /// Installed below PREFIX/lib, or where this program was built.
    private static var script: String? {
        guard let directory = Library.executableDirectory else { return nil }
        return ["../lib/sanswitch/bench", "../../bench"].map { "\(directory)/\($0)/compare.py" }
            .first { access($0, R_OK) == 0 }
    }
}
