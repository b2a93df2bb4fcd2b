using System.Diagnostics;
using Godwit.Host.Qemu;

namespace Godwit.Host.Tests.Qemu;

public sealed class DiskLockTests
{
    // A real QEMU that stands still has its disk open for writing; when it is gone nobody has.
    [Fact]
    public async Task A_disk_is_written_while_a_QEMU_has_it()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        string image = Path.GetTempFileName();
        try
        {
            using (FileStream file = File.OpenWrite(image))
            {
                file.SetLength(1 << 20);
            }

            Assert.False(DiskLock.IsWritten(image));
            using (Process qemu = Process.Start(new ProcessStartInfo("qemu-system-x86_64",
                ["-nodefaults", "-display", "none", "-accel", "tcg", "-m", "32", "-S",
                    "-drive", $"file={image},format=raw,if=virtio"]))!)
            {
                for (int attempt = 0; attempt < 1200 && !DiskLock.IsWritten(image); attempt++)
                {
                    await Task.Delay(100, cancel);
                }

                Assert.True(DiskLock.IsWritten(image));
                qemu.Kill();
                await qemu.WaitForExitAsync(cancel);
            }

            Assert.False(DiskLock.IsWritten(image));
        }
        finally
        {
            File.Delete(image);
        }
    }

    [Fact]
    public void A_file_that_is_not_there_is_not_written() => Assert.False(DiskLock.IsWritten("/nowhere/disk.raw"));
}
