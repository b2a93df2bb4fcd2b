using System.Collections;
using Godwit.Migration;

namespace Godwit.Daemon.Tests;

public sealed class SettingsTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("gw-settings-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private string Write(string name, string json)
    {
        var path = Path.Combine(_directory, name);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, json);
        return path;
    }

    private DaemonSettings Read(Hashtable? environment = null, params string[] arguments) =>
        SettingsReader.Read([.. arguments, "--config", _directory], environment ?? []);

    private string Refusal(Hashtable? environment = null, params string[] arguments)
    {
        var exception = Assert.Throws<GodwitException>(() => Read(environment, arguments));
        Assert.Equal("config-invalid", exception.Code);
        Assert.NotEmpty(exception.Remedy);
        return exception.Message;
    }

    [Fact]
    public void Each_source_overrides_the_one_before()
    {
        Write("godwitd.json", """{ "hostName": "file", "address": "10.0.0.1", "peerPort": 1000, "lanes": 3 }""");
        Write("conf.d/20-b.json", """{ "hostName": "second", "address": "10.0.0.3" }""");
        Write("conf.d/10-a.json", """{ "hostName": "first", "lanes": 4 }""");
        var settings = Read(new Hashtable { ["GODWIT_ADDRESS"] = "10.0.0.4", ["OTHER"] = "x" }, "--host-name", "cli");
        Assert.Equal(("cli", "10.0.0.4", 1000, 4),
            (settings.HostName, settings.Address, settings.PeerPort, settings.Lanes));
        Assert.Equal("second", Read().HostName);
    }

    [Fact]
    public void The_pki_lies_beside_the_configuration_and_every_default_is_stated()
    {
        var settings = Read(null, "--host-name=a");
        Assert.Equal(Path.Combine(_directory, "pki"), settings.PkiDirectory);
        Assert.Equal(("/var/lib/godwit", "/run/godwit", 7843, 7844),
            (settings.StateDirectory, settings.RuntimeDirectory, settings.PeerPort, settings.LanePort));
        Assert.Contains("\"reservationSeconds\": 30", settings.Describe(), StringComparison.Ordinal);
    }

    [Fact]
    public void What_describe_prints_is_a_configuration()
    {
        var settings = Read(null, "--host-name", "a", "--address", "10.1.1.1");
        Write("godwitd.json", settings.Describe());
        Assert.Equal(settings, Read());
    }

    [Theory]
    [InlineData("""{ "hostNam": "a" }""", "hostNam")]
    [InlineData("""{ "peerPort": 0 }""", "1 to 65535")]
    [InlineData("""{ "peerPort": 70000 }""", "70000")]
    [InlineData("""{ "peerPort": "12x" }""", "whole number")]
    [InlineData("""{ "peerPort": 7844 }""", "both 7844")]
    [InlineData("""{ "hostName": "A_b" }""", "lower-case")]
    [InlineData("""{ "hostName": "" }""", "lower-case")]
    [InlineData("""{ "address": "10.0.0.1:7843" }""", "without a port")]
    [InlineData("""{ "listen": "eth0" }""", "IP address")]
    [InlineData("""{ "stateDirectory": "here" }""", "absolute path")]
    [InlineData("""{ "accelerator": "xen" }""", "auto, kvm, tcg")]
    [InlineData("""{ "lanes": { "count": 1 } }""", "lanes:count")]
    [InlineData("""{ "lanes": 1 """, "cannot be read")]
    public void A_bad_value_is_refused_with_its_name_and_limit(string json, string expected)
    {
        Write("godwitd.json", json);
        Assert.Contains(expected, Refusal(), StringComparison.Ordinal);
    }

    [Fact]
    public void The_origin_of_a_bad_value_is_named()
    {
        Assert.Contains("$GODWIT_LANES", Refusal(new Hashtable { ["GODWIT_LANES"] = "99" }), StringComparison.Ordinal);
        Assert.Contains("--log-format", Refusal(null, "--log-format", "xml"), StringComparison.Ordinal);
        Assert.Contains("--colour", Refusal(null, "--colour", "red"), StringComparison.Ordinal);
        var file = Write("conf.d/x.json", """{ "lanes": 99 }""");
        Assert.Contains(file, Refusal(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_missing_file_and_an_option_without_value_are_refused()
    {
        Assert.Throws<GodwitException>(() => SettingsReader.Read(["--config", "/nowhere"], new Hashtable()));
        Assert.Throws<GodwitException>(() => SettingsReader.Read(["--host-name"], new Hashtable()));
    }
}
