using System.Diagnostics;
using System.Text.Json;
using Godwit.Lab;
using Godwit.Lab.Guests;
using Godwit.Lab.Network;
using Godwit.Lab.Qemu;
using Godwit.Lab.Scenarios;

namespace Godwit.EndToEnd.Tests;

// The instrument before the measurement: does the lab find what is wrong, and does it clean up?
public class LabTests
{
    [Fact]
    public void Plain_qemu_moves_the_guest_and_nothing_is_lost()
    {
        LabResult result = LabForTests.Play("stock-default");

        Assert.Empty(result.Failures);
        Assert.Equal("completed", Assert.Single(result.Moves).Outcome);
        Assert.True(result.Memory.Checked > 4096);
        Assert.True(result.Disk.Checked > 1024);
    }

    // Goal: verification that finds nothing proves something. Method: spoil single pages on purpose, one of each kind.
    [Theory]
    [InlineData("content", "memory", "damaged content")]
    [InlineData("stale", "memory", "stale")]
    [InlineData("static", "static", "damaged content")]
    public void One_spoiled_page_is_found_and_named(string kind, string region, string why)
    {
        LabForTests.SkipWithoutTheMeans();
        Machine.Prepare(_ => { });
        using IDisposable hold = LabSession.Hold();
        GuestImage image = GuestImage.Obtain(_ => { });
        try
        {
            LabSession.Up(LinkShape.Unshaped);
            GuestShape shape = new(1, 128, 1);
            string disk = Path.Combine(LabDirectory.Disks, "one.raw");
            File.Copy(image.Disk, disk);
            using StockQemu qemu = StockQemu.Start("a", "one", shape, image, disk, incoming: false);
            using AgentControl agent = AgentControl.Connect(
                shape.Address, AgentControl.BootMax, TestContext.Current.CancellationToken);
            agent.Ask("set pattern=counters rate=4M");
            agent.Ask("set pattern=idle");
            Assert.Equal(0, agent.VerifyMemory().Wrong);

            agent.Ask($"damage page=77 kind={kind}");

            Verdict verdict = agent.VerifyMemory();
            Assert.Equal(1, verdict.Wrong);
            JsonElement named = JsonDocument.Parse(verdict.Named[0]).RootElement;
            Assert.Equal(77, named.GetProperty("page").GetInt64());
            Assert.Equal(region, named.GetProperty("region").GetString());
            Assert.Equal(why, named.GetProperty("why").GetString());
        }
        finally
        {
            LabSession.Down();
        }
    }

    // Method: kill the lab's own process in the middle of a move, so that nothing of its can clean up; then `down`.
    [Fact]
    public void What_a_killed_run_left_behind_is_gone_after_down()
    {
        LabForTests.SkipWithoutTheMeans();
        string program = typeof(LabSession).Assembly.Location;
        ProcessStartInfo start = new("dotnet", [program, "run", "stock-default"]) { RedirectStandardOutput = true };
        using Process run = Process.Start(start)!;
        while (run.StandardOutput.ReadLine() is { } line && !line.Contains("Moving", StringComparison.Ordinal))
        {
        }

        run.Kill();
        run.WaitForExit();
        List<int> left = [.. LabNetwork.Namespaces().SelectMany(LabProcesses.In)];
        Assert.NotEmpty(left);

        Assert.Equal("", Tool.Run("dotnet", program, "down"));

        Assert.Empty(LabNetwork.Namespaces());
        Assert.All(left, id => Assert.False(LabProcesses.IsAlive(id)));
        Assert.False(Directory.Exists(LabDirectory.Run));
        Assert.False(Directory.Exists(LabDirectory.Disks));
        Tool.Run("dotnet", program, "down"); // and once more, with nothing to do
    }

    [Fact]
    public void A_lab_in_use_is_not_torn_down_by_another()
    {
        LabForTests.SkipWithoutTheMeans();
        using IDisposable hold = LabSession.Hold();

        LabException refusal = Assert.Throws<LabException>(() =>
            Tool.Run("dotnet", typeof(LabSession).Assembly.Location, "down"));

        Assert.Contains("in use by another process", refusal.Message, StringComparison.Ordinal);
    }
}
