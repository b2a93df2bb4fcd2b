using System.Text;
using Godwit.Lab.Guests;

namespace Godwit.Lab.Tests;

public class MachineTests
{
    [Theory]
    [InlineData("deb http://mirror.example/debian bookworm main")]
    [InlineData("deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib")]
    [InlineData("URIs: http://mirror.example/debian")]
    public void The_mirror_is_the_one_the_machine_uses(string line) =>
        Assert.Equal(
            "http://mirror.example/debian",
            Machine.MirrorIn([
                "deb http://other.example/tools stable main",
                "URIs: http://mirror.example/debian-security",
                line,
            ]));

    [Fact]
    public void A_machine_without_a_mirror_is_told_what_to_do() =>
        Assert.Contains(
            "bookworm-backports", Assert.Throws<LabException>(() => Machine.MirrorIn([])).Message,
            StringComparison.Ordinal);

    [Fact]
    public void A_modules_dependencies_are_read_from_its_own_words()
    {
        byte[] module = Encoding.ASCII.GetBytes("\u007fELF....license=GPL\0depends=virtio_ring,virtio-pci\0name=x\0");

        Assert.Equal(["virtio_ring", "virtio_pci"], GuestImage.DependenciesIn(module));
        Assert.Empty(GuestImage.DependenciesIn("\0depends=\0"u8));
        Assert.Empty(GuestImage.DependenciesIn("nothing"u8));
    }
}
