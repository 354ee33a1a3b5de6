import ArgumentParser
import CLibc
import Glibc

/// A command as exec would find it, and whether ld.so will preload into it.
struct Program {
    let path: String

    /// As execvp(3) searches. Not found: 127, found but not executable: 126, as shells have it.
    static func find(_ name: String) throws -> Program {
        if name.contains("/") {
            if access(name, X_OK) == 0, !isDirectory(name) { return Program(path: name) }
            let code = isDirectory(name) ? EACCES : libc_errno()
            warn("\(name): \(describe(code))")
            throw ExitCode(code == ENOENT || code == ENOTDIR ? 127 : 126)
        }
        var isDenied = false
        for directory in (environment("PATH") ?? "/bin:/usr/bin").split(
            separator: ":", omittingEmptySubsequences: false)
        {
            let path = directory.isEmpty ? "./\(name)" : "\(directory)/\(name)"
            guard access(path, F_OK) == 0, !isDirectory(path) else { continue }
            if access(path, X_OK) == 0 { return Program(path: path) }
            isDenied = true
        }
        warn("\(name): \(isDenied ? describe(EACCES) : "command not found")")
        throw ExitCode(isDenied ? 126 : 127)
    }

    /// Why the preload would have no effect; nil when it has.
    var ignoresPreload: String? {
        guard let head = readFile(path, limit: 4096) else { return nil }
        if head.starts(with: [0x23, 0x21]) {
            guard let interpreter = Self.interpreter(head) else { return nil }
            return Program(path: interpreter).binaryIgnoresPreload.map { "is run by \(interpreter), which \($0)" }
        }
        return binaryIgnoresPreload
    }

    private var binaryIgnoresPreload: String? {
        if gainsPrivilege { return "is set-uid, set-gid or has file capabilities, so the preload is ignored" }
        guard let image = ElfImage(path) else { return nil }
        if !image.isOwnMachine { return "is built for another kind of processor than the library" }
        guard let loader = image.loader else { return "is statically linked, so nothing can be preloaded" }
        return loader.contains("ld-musl") ? "uses musl libc, and the library needs glibc" : nil
    }

    /// ld.so ignores paths in LD_PRELOAD when exec changes ids or gives capabilities (AT_SECURE).
    private var gainsPrivilege: Bool {
        var status = stat()
        guard stat(path, &status) == 0 else { return false }
        if status.st_mode & S_ISUID != 0, status.st_uid != geteuid() { return true }
        if status.st_mode & S_ISGID != 0, status.st_gid != getegid() { return true }
        return geteuid() != 0 && hasCapabilities
    }

    /// File capabilities are an extended attribute. No module has <sys/xattr.h>, so the function is looked up.
    private var hasCapabilities: Bool {
        typealias GetXattr =
            @convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafeMutableRawPointer?, Int) -> Int
        guard let symbol = dlsym(nil, "getxattr") else { return false }
        return unsafeBitCast(symbol, to: GetXattr.self)(path, "security.capability", nil, 0) > 0
    }

    /// The program on a script's first line, through env(1) if that is there.
    private static func interpreter(_ head: [UInt8]) -> String? {
        let line = String(decoding: head.dropFirst(2).prefix { $0 != 0x0a }, as: UTF8.self)
        let words = line.split { $0 == " " || $0 == "\t" }
        guard let first = words.first else { return nil }
        guard first.hasSuffix("/env"),
            let name = words.dropFirst().first(where: { !$0.hasPrefix("-") && !$0.contains("=") })
        else { return String(first) }
        return (environment("PATH") ?? "").split(separator: ":").map { "\($0)/\(name)" }.first { access($0, X_OK) == 0 }
    }

    private static func isDirectory(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }
}

/// What the head of an ELF file says.
struct ElfImage {
    /// The dynamic loader it asks for; nil when it is static.
    let loader: String?
    /// Same class, byte order and machine as this program.
    let isOwnMachine: Bool

    init?(_ path: String) {
        guard let own = readFile("/proc/self/exe", limit: 64), let bytes = readFile(path, limit: 1 << 16),
            bytes.count >= 64,
            bytes.starts(with: [0x7f, 0x45, 0x4c, 0x46])
        else { return nil }
        isOwnMachine = own.count == 64 && own[4..<6] == bytes[4..<6] && own[18..<20] == bytes[18..<20]
        loader = isOwnMachine && bytes[4] == 2 ? Self.loader(bytes) : nil
    }

    /// PT_INTERP among the program headers (64-bit, this machine's byte order).
    private static func loader(_ bytes: [UInt8]) -> String? {
        bytes.withUnsafeBytes { raw in
            let table = raw.loadUnaligned(fromByteOffset: 32, as: UInt64.self)
            let size = Int(raw.loadUnaligned(fromByteOffset: 54, as: UInt16.self))
            let count = Int(raw.loadUnaligned(fromByteOffset: 56, as: UInt16.self))
            guard table < raw.count, size >= 56 else { return nil }
            for index in 0..<count {
                let entry = Int(table) + index * size
                guard entry + 56 <= raw.count else { return nil }
                guard raw.loadUnaligned(fromByteOffset: entry, as: UInt32.self) == 3 else { continue }
                let offset = raw.loadUnaligned(fromByteOffset: entry + 8, as: UInt64.self)
                guard offset < raw.count else { return "" }
                return String(decoding: raw[Int(offset)...].prefix { $0 != 0 }, as: UTF8.self)
            }
            return nil
        }
    }
}
