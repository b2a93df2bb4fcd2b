using System.Runtime.InteropServices;

namespace Godwit.Lab.Qemu;

/// <summary>Whether KVM can be trusted with a machine here: by making one with a vCPU.</summary>
/// <remarks>
/// Making one is not enough: kernels that emulate KVM without the processor's help make vCPUs that then cannot boot a
/// stock kernel. So the processor has to have virtualization as well.
/// </remarks>
internal static partial class KvmProbe
{
    internal static bool Works()
    {
        string[] flags = File.ReadLines("/proc/cpuinfo")
            .FirstOrDefault(line => line.StartsWith("flags", StringComparison.Ordinal))?.Split(' ') ?? [];
        if (!flags.Contains("vmx") && !flags.Contains("svm"))
        {
            return false;
        }

        int device = Open("/dev/kvm", 0x80002 /* O_RDWR | O_CLOEXEC */);
        if (device < 0)
        {
            return false;
        }

        int machine = Control(device, 0xAE01 /* KVM_CREATE_VM */, 0);
        int cpu = machine < 0 ? -1 : Control(machine, 0xAE41 /* KVM_CREATE_VCPU */, 0);
        _ = cpu >= 0 ? Close(cpu) : 0;
        _ = machine >= 0 ? Close(machine) : 0;
        _ = Close(device);
        return cpu >= 0;
    }

    [LibraryImport("libc", EntryPoint = "open", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "ioctl")]
    private static partial int Control(int file, nuint request, nuint argument);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int file);
}
