import CLibc
import Configuration
import Libc

/// What the library needs of the machine and of the environment, tried one by one.
enum MachineChecks {
    static func run(library: String?, _ diagnosis: inout Diagnosis) {
        checkLibrary(library, &diagnosis)
        checkMemory(&diagnosis)
        checkSocketOwner(&diagnosis)
        checkDescriptors(&diagnosis)
        checkProcessors(&diagnosis)
        ProviderChecks.run(&diagnosis)
        checkEnvironment(&diagnosis)
        checkConfiguration(&diagnosis)
    }

    private static func checkLibrary(_ given: String?, _ diagnosis: inout Diagnosis) {
        guard let path = given ?? Library.find() else {
            return diagnosis.bad(
                "\(Library.name) is not at \(Library.candidates.joined(separator: ", "))",
                remedy: "run `make build`, or name it with --library")
        }
        if let reason = Library.unusable(path) {
            return diagnosis.bad(
                reason, remedy: "install the library in a directory that everyone can read, without spaces or colons")
        }
        guard let trial = Trial.run("/bin/true", variables: ["LD_PRELOAD=\(path)"]) else {
            return diagnosis.note("/bin/true could not be run, so the library was not tried")
        }
        if trial.status == 0, trial.errors.isEmpty { return diagnosis.good("library \(path) loads") }
        let words =
            trial.errors.isEmpty ? "/bin/true under it ended with status \(trial.status)" : printable(trial.errors)
        diagnosis.bad("library \(path) does not load: \(words)", remedy: "build it on this machine: `make build`")
    }

    /// Rings are sealed memfds: a peer must not be able to shrink what this process has mapped.
    private static func checkMemory(_ diagnosis: inout Diagnosis) {
        let fd = sys_memfd_create("sanswitch-doctor", UInt32(MFD_CLOEXEC | MFD_ALLOW_SEALING))
        guard fd >= 0 else {
            return diagnosis.bad(
                "memfd_create: \(describe(CInt(-fd)))", remedy: "allow memfd_create in the container's seccomp profile")
        }
        defer { _ = sys_close(CInt(fd)) }
        let seals = Int(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
        guard sys_ftruncate(CInt(fd), 4096) == 0, sys_fcntl(CInt(fd), F_ADD_SEALS, seals) == 0,
            let memory = sys_map(4096, CInt(fd), MAP_SHARED)
        else {
            return diagnosis.bad(
                "sealed shared memory cannot be made", remedy: "use a kernel with memfd sealing (3.17 or later)")
        }
        sys_unmap(memory, 4096)
        diagnosis.good("sealed shared memory (memfd) works")
    }

    /// The kernel must be able to say who owns a TCP socket, or no peer that is not root can be trusted.
    private static func checkSocketOwner(_ diagnosis: inout Diagnosis) {
        guard let pair = LoopbackPair() else {
            return diagnosis.bad(
                "no TCP connection over 127.0.0.1 can be made",
                remedy: "bring the loopback interface up: `ip link set lo up`")
        }
        switch SocketOwner.find(pair.tuple) {
        case .found(let uid) where uid == geteuid():
            diagnosis.good("the kernel tells the owner of a TCP socket (sock_diag)")
        case .found(let uid):
            diagnosis.bad(
                "sock_diag names user \(uid) as the owner of this program's socket",
                remedy: "run both ends in one user namespace")
        case .failed(let code):
            diagnosis.bad(
                "sock_diag does not answer: \(describe(code))",
                remedy:
                    "load the kernel's inet_diag and tcp_diag (`modprobe tcp_diag`), or allow AF_NETLINK sockets in the sandbox"
            )
        }
    }

    /// The library keeps its descriptors beyond the soft limit on numbers, or, where the hard limit leaves no room, high up within it.
    private static func checkDescriptors(_ diagnosis: inout Diagnosis) {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        let (soft, hard) = (min(limit.rlim_cur, 1 << 20), min(limit.rlim_max, 1 << 20))
        // Each connection of the program takes two: its own number, and one of the library's.
        let room = max(min(soft, hard - soft), soft / 2)
        let text = "descriptor limit \(soft), hard \(hard): room for about \(room) switched connections in a process"
        let remedy =
            "raise the hard limit before starting the program, and keep the soft one below it: `ulimit -Hn 65536`"
        if room < 4 { return diagnosis.bad(text, remedy: remedy) }
        room < 256 ? diagnosis.note(text, remedy: remedy) : diagnosis.good(text)
    }

    private static func checkProcessors(_ diagnosis: inout Diagnosis) {
        let count = sysconf(CInt(_SC_NPROCESSORS_ONLN))
        if count < 2 {
            return diagnosis.note("one processor: the switch sleeps instead of spinning, so small messages gain less")
        }
        diagnosis.good("\(count) processors")
    }

    /// What `Settings` of the library would read; the rest has no effect, which somebody should say.
    private static func checkEnvironment(_ diagnosis: inout Diagnosis) {
        let numbers = Knob.allCases.filter(\.isNumber).map(\.environment.description)
        for (name, value) in environmentVariables() where name == "SAN" || name.hasPrefix("SAN_") {
            let shown = printable("\(name)=\(value)")
            switch name {
            case "SAN" where value == "off":
                diagnosis.bad("\(shown) switches the library off", remedy: "unset SAN")
            case "SAN" where value == "on" || value.isEmpty: break
            case "SAN_CONFIG", "SAN_PROVIDERS", "SAN_PROVIDER_PATH": break
            case "SAN_LOG" where value == "debug" || value.hasPrefix("debug:"): break
            case _ where numbers.contains(name):
                if ConfigurationReport.decimal(value) != nil {
                    diagnosis.note("\(shown) is set")
                } else {
                    ignored("\(shown) is no decimal number", &diagnosis)
                }
            case "SAN": ignored("\(shown) is neither on nor off", &diagnosis)
            case "SAN_LOG": ignored("\(shown) is neither debug nor debug:FILE", &diagnosis)
            default: ignored("\(shown) is no variable that the library knows", &diagnosis)
            }
        }
    }

    /// A file that cannot be understood leaves every program on TCP.
    private static func checkConfiguration(_ diagnosis: inout Diagnosis) {
        let report = ConfigurationReport()
        if let fault = report.fault {
            return diagnosis.bad(fault, remedy: "mend the file; `sanswitch config --check` looks again")
        }
        let read = report.files.filter { if case .read = $0.state { true } else { false } }
        if read.isEmpty { return }
        diagnosis.good(
            "configuration \(read.map(\.path).joined(separator: ", ")): \(report.rules.count) rules, see `sanswitch config`"
        )
    }

    private static func ignored(_ text: String, _ diagnosis: inout Diagnosis) {
        diagnosis.note(
            "\(text): it has no effect",
            remedy: "correct or unset variables without effect; sanswitch(1) lists those there are")
    }

    private static func environmentVariables() -> [(String, String)] {
        let entries = (readFile("/proc/self/environ") ?? []).split(separator: 0).map {
            String(decoding: $0, as: UTF8.self)
        }
        return entries.compactMap { entry in
            let parts = entry.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            return parts.count == 2 ? (String(parts[0]), String(parts[1])) : nil
        }.sorted { $0.0 < $1.0 }
    }
}
