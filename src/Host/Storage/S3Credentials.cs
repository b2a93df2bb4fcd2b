using Amazon.Runtime;
using Amazon.Runtime.CredentialManagement;
using Godwit.ChunkStore.Storage;
using Godwit.Host.Trust;
using Godwit.Migration;

namespace Godwit.Host.Storage;

/// <summary>Keys in a file of AWS's format; read again when it has changed, so that they can be replaced.</summary>
internal sealed class S3Credentials(string path) : AWSCredentials
{
    private const string Section = "default";
    private readonly Lock _lock = new();
    private ImmutableCredentials? _read;
    private DateTime _written;

    /// <exception cref="StorageException">It cannot be read, others can read it, or it holds no keys.</exception>
    public override ImmutableCredentials GetCredentials()
    {
        lock (_lock)
        {
            try
            {
                DateTime written = File.GetLastWriteTimeUtc(path);
                if (_read is null || written != _written)
                {
                    KeyFile.CheckMode(path);
                    _read = Read();
                    _written = written;
                }

                return _read;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException or GodwitException
                or AmazonClientException)
            {
                throw new StorageException(
                    StorageFailure.Denied, $"the credentials file {path} is of no use: {e.Message}", e);
            }
        }
    }

    private ImmutableCredentials Read()
    {
        using FileStream _ = File.OpenRead(path);
        var file = new SharedCredentialsFile(path);
        return file.TryGetProfile(Section, out CredentialProfile profile) && profile.CanCreateAWSCredentials
            ? profile.GetAWSCredentials(file).GetCredentials()
            : throw new IOException(
                $"it has no section [{Section}] with aws_access_key_id and aws_secret_access_key");
    }
}
