using Godwit.Pages;

namespace Godwit.Host.Qemu;

public sealed partial class QemuMachine
{
    /// <summary>True for a RAM block whose memory <see cref="OpenMemory"/> opens.</summary>
    public bool Holds(RamBlock block) => Contract.SharedMemory && block.Name == QemuCommandLine.MemoryBlock
        && block.Length == Contract.MemoryBytes;
}
