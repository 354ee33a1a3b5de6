import CLibc
import Registry

/// What SAN_PROVIDERS says: names of registered providers and paths of libraries, in the order in which they are asked.
enum Choice {
    /// Where in the list a provider is; nil when it may not be used. Everything is at 0 when nothing is said.
    static func position(of name: UnsafePointer<CChar>, library: UnsafePointer<CChar>?) -> Int? {
        guard let list = settings.providers else { return 0 }
        var found: Int?
        var position = 0
        Registry.forEachItem(list, 0x2c) { item in
            if found == nil, strcmp(item, name) == 0 || (library.map { strcmp(item, $0) == 0 } ?? false) {
                found = position
            }
            position += 1
        }
        return found
    }

    /// Calls `body` for each library that is named by its path, which needs no file.
    static func forEachLibrary(_ body: (UnsafePointer<CChar>) -> Void) {
        guard let list = settings.providers else { return }
        Registry.forEachItem(list, 0x2c) { if $0.pointee == 0x2f { body($0) } }
    }
}
