using System.Text.RegularExpressions;

namespace Godwit.Host.Storage;

/// <summary>A part of a bucket, and how this host gets there.</summary>
/// <param name="Bucket">Its name; it has to be there.</param>
/// <param name="Prefix">What all names begin with: empty, or ending in a slash.</param>
/// <param name="Endpoint">http(s)://HOST:PORT; empty for AWS.</param>
/// <param name="Region">Empty for AWS's settings on this host; with an endpoint for us-east-1.</param>
/// <param name="CredentialsFile">
/// In AWS's format, its section <c>[default]</c>; empty for AWS's usual places: environment, files, role.
/// </param>
public sealed partial record S3Location(
    string Bucket, string Prefix, string Endpoint, string Region, string CredentialsFile)
{
    private const string Scheme = "s3://";

    /// <summary>Whether this is meant to be one.</summary>
    public static bool IsS3(string location) => location.StartsWith(Scheme, StringComparison.Ordinal);

    /// <summary>Reads <c>s3://BUCKET</c> or <c>s3://BUCKET/PREFIX</c>.</summary>
    /// <returns>Null if it is none, or the endpoint is none.</returns>
    public static S3Location? TryParse(string location, string endpoint, string region, string credentialsFile)
    {
        Match match = Form().Match(location);
        bool isEndpoint = endpoint.Length == 0 || (Uri.TryCreate(endpoint, UriKind.Absolute, out Uri? uri)
            && uri is { Scheme: "http" or "https", AbsolutePath: "/", Query: "", UserInfo: "" });
        if (!match.Success || !isEndpoint)
        {
            return null;
        }

        string prefix = match.Groups["prefix"].Value;
        return new S3Location(
            match.Groups["bucket"].Value, prefix.Length > 0 ? prefix + "/" : "", endpoint, region, credentialsFile);
    }

    public override string ToString() =>
        $"{Scheme}{Bucket}/{Prefix}".TrimEnd('/') + (Endpoint.Length > 0 ? $" at {Endpoint}" : "");

    [GeneratedRegex("^s3://(?<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/?(?<prefix>[A-Za-z0-9_-][A-Za-z0-9._-]*"
        + "(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?/?$")]
    private static partial Regex Form();
}
