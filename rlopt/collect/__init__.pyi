from .demonstration_recording import record_demonstrations as record_demonstrations
from .generators import generate as generate
